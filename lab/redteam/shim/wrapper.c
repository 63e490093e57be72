// A program that was replaced: it is the real one, with the shim inside.
#include <unistd.h>

int main(int count, char **arguments) {
    (void)count;
    char *environment[] = {"LD_PRELOAD=" SHIM, NULL};
    execve(PROGRAM, arguments, environment);
    return 1;
}
