// What a connect costs: `cost NAME ROUNDS` prints, for each round, three medians in nanoseconds of a connect that does not
// wait: by the kernel alone and by the C library to a listener of its own, and to the name. Those of one round take turns.
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 200 };

typedef int way(int, const struct sockaddr *, socklen_t);

// Past the C library, and so past what stands before it.
static int by_kernel(int fd, const struct sockaddr *to, socklen_t length) {
#if defined __x86_64__
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_connect), "D"((long)fd), "S"(to), "d"((long)length) : "rcx", "r11", "memory");
#elif defined __aarch64__
    register long number __asm__("x8") = SYS_connect, result __asm__("x0") = fd, second __asm__("x1") = (long)to, third __asm__("x2") = length;
    __asm__ volatile("svc 0" : "+r"(result) : "r"(number), "r"(second), "r"(third) : "memory");
#else
#error "another machine's system calls"
#endif
    return result;
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

// One connect. The end of it is a reset, so that no ports stay behind.
static long one(way *connect, const struct sockaddr_in *to) {
    struct linger none = {1, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    long begin = now(), end;
    connect(fd, (const struct sockaddr *)to, sizeof *to);
    end = now();
    struct pollfd ready = {fd, POLLOUT, 0};
    poll(&ready, 1, 60000);
    if (ready.revents & POLLERR) exit((fputs("not connected\n", stderr), 1));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(fd);
    return end - begin;
}

static int order(const void *one, const void *other) {
    long a = *(const long *)one, b = *(const long *)other;
    return (a > b) - (a < b);
}

static long median(long *all) {
    qsort(all, COUNT, sizeof *all, order);
    return all[COUNT / 2];
}

int main(int count, char **arguments) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, there = here;
    socklen_t length = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct hostent *entry = count > 2 ? gethostbyname(arguments[1]) : NULL;
    static long plain[COUNT], passing[COUNT], led[COUNT];
    if (!entry) return fputs("no such name\n", stderr), 1;
    memcpy(&there.sin_addr, entry->h_addr_list[0], 4);
    there.sin_port = htons(7);
    bind(listener, (struct sockaddr *)&here, sizeof here);
    getsockname(listener, (struct sockaddr *)&here, &length);
    listen(listener, 4096);
    for (int round = atoi(arguments[2]); round > 0; round--) {
        for (int i = 0; i < COUNT; i++) {
            plain[i] = one(by_kernel, &here);
            close(accept(listener, NULL, NULL));
            passing[i] = one(connect, &here);
            close(accept(listener, NULL, NULL));
        }
        // Without a supervisor or a hook the name is the decoy's, where nobody listens.
        for (int i = 0; i < COUNT && ntohl(there.sin_addr.s_addr) >> 22 == 0x7f400000 >> 22; i++) led[i] = one(connect, &there);
        printf("%ld %ld %ld\n", median(plain), median(passing), median(led));
    }
    return 0;
}
