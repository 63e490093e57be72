// A card's program that was replaced: it is the real card, with the shim inside.
#include <unistd.h>

int main(int count, char **arguments) {
    (void)count;
    char *environment[] = {"LD_PRELOAD=" SHIM, NULL};
    execve(CARD, arguments, environment);
    return 1;
}
