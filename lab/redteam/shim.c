// What an attacker on the machine would have to be able to do, done to a process from inside: its wall clock is set,
// or it makes a connection outward although it is a card. Linked into lab builds of the real programs, whose calls of
// these two functions then come here. Orders come through a file that is mapped before the process confines itself.
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct orders {
    volatile long long seconds; // added to the wall clock
    volatile long long outbound; // make a connection, once
};

static struct orders *orders;

__attribute__((constructor)) static void start(void) {
    int file = open(ORDERS, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) orders = map;
}

int __real_clock_gettime(clockid_t, struct timespec *);

int __wrap_clock_gettime(clockid_t clock, struct timespec *time) {
    int result = __real_clock_gettime(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && orders) time->tv_sec += orders->seconds;
    return result;
}

void *__real_malloc(size_t);

// The allocator is what every answer of a card goes through, in the very thread that is confined.
void *__wrap_malloc(size_t size) {
    if (orders && orders->outbound) {
        orders->outbound = 0;
        struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        connect(file, (struct sockaddr *)&out, sizeof out);
    }
    return __real_malloc(size);
}
