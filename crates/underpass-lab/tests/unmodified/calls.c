// Uses each call that a program may connect or look names up by, and tells what came of it: `CALL RESULT` in each line.
// The name that it is given leads to a service that answers a line of text by the same line. With one more word it asks DNS
// nothing.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const char LINE[] = "hello\n";
static struct sockaddr_in service = {.sin_family = AF_INET};

// Ends the line that a call began: sends unless that was done already, and compares what comes back.
static void echo(int fd, int sent) {
    char got[sizeof LINE] = "";
    size_t length = 0;
    ssize_t more = 1;
    fcntl(fd, F_SETFL, 0);
    if (!sent && write(fd, LINE, strlen(LINE)) < 0) {
        printf("%s\n", strerror(errno));
        close(fd);
        return;
    }
    while (length < strlen(LINE) && more > 0) {
        more = read(fd, got + length, strlen(LINE) - length);
        length += more > 0 ? more : 0;
    }
    puts(more < 0 ? strerror(errno) : strcmp(got, LINE) ? "other bytes" : "ok");
    close(fd);
}

static int made(const char *call, int domain, int kind, int protocol) {
    printf("%s ", call);
    return socket(domain, kind, protocol);
}

static void ended(const char *call, int result) { printf("%s %s\n", call, result < 0 ? strerror(errno) : "0"); }

static void lookups(const char *name) {
    char text[400], host[300], port[20];
    struct hostent *entry = gethostbyname2(name, AF_INET), own;
    struct addrinfo *list, hints = {.ai_family = AF_INET6, .ai_socktype = SOCK_STREAM, .ai_flags = AI_V4MAPPED};
    int error = 0;
    printf("gethostbyname2 %s\n", entry ? entry->h_name : hstrerror(h_errno));
    error = gethostbyname_r(name, &own, text, sizeof text, &entry, &h_errno);
    printf("gethostbyname_r %s\n", entry ? entry->h_name : strerror(error));
    error = gethostbyname_r(name, &own, text, 8, &entry, &h_errno);
    printf("gethostbyname_r-short %s\n", error == ERANGE ? "ERANGE" : "?");
    error = gethostbyname2_r(name, AF_INET, &own, text, sizeof text, &entry, &h_errno);
    printf("gethostbyname2_r %s\n", entry ? entry->h_name : strerror(error));
    error = gethostbyaddr_r(&service.sin_addr, 4, AF_INET, &own, text, sizeof text, &entry, &h_errno);
    printf("gethostbyaddr_r %s\n", entry ? entry->h_name : strerror(error));
    entry = gethostbyaddr(&service.sin_addr, 4, AF_INET);
    printf("gethostbyaddr %s\n", entry ? entry->h_name : hstrerror(h_errno));
    error = getnameinfo((struct sockaddr *)&service, sizeof service, host, sizeof host, port, sizeof port, NI_NUMERICSERV);
    printf("getnameinfo %s %s\n", error ? gai_strerror(error) : host, port);
    error = getnameinfo((struct sockaddr *)&service, sizeof service, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    printf("getnameinfo-numeric %s\n", strncmp(host, "127.", 4) ? host : "127");
    // Whether it maps addresses is the C library's affair; where it does, the socket of IPv6 must get there.
    if (getaddrinfo(name, "7", &hints, &list) == 0) {
        int fd = made("connect-mapped", AF_INET6, SOCK_STREAM, 0);
        if (connect(fd, list->ai_addr, list->ai_addrlen) < 0) perror("");
        echo(fd, 0);
        freeaddrinfo(list);
    }
}

// Names that lead to a pseudo address are not told to DNS. Others would be, which answers late where there is none.
static void queries(const char *name) {
    unsigned char answer[512];
    if ((ntohl(service.sin_addr.s_addr) & 0xffc00000) != 0x7f400000) return;
    h_errno = 0;
    printf("res_query %d ", res_query(name, 1, 1, answer, sizeof answer));
    puts(h_errno == HOST_NOT_FOUND ? "HOST_NOT_FOUND" : "?");
    h_errno = 0;
    printf("res_search %d ", res_search(name, 1, 28, answer, sizeof answer));
    puts(h_errno == HOST_NOT_FOUND ? "HOST_NOT_FOUND" : "?");
#ifdef GAI_NOWAIT
    struct gaicb request = {.ar_name = name}, *list[] = {&request};
    printf("getaddrinfo_a %s\n", getaddrinfo_a(GAI_WAIT, list, 1, NULL) == EAI_AGAIN ? "EAI_AGAIN" : "?");
#else
    puts("getaddrinfo_a EAI_AGAIN");
#endif
}

static void connections(void) {
    struct sockaddr *to = (struct sockaddr *)&service;
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    struct iovec part = {(void *)LINE, strlen(LINE)};
    struct msghdr message = {.msg_name = to, .msg_namelen = sizeof service, .msg_iov = &part, .msg_iovlen = 1};
    struct mmsghdr messages[1] = {{.msg_hdr = message}};

    int fd = made("connect", AF_INET, SOCK_STREAM, 0);
    if (connect(fd, to, sizeof service) < 0) perror("");
    getpeername(fd, (struct sockaddr *)&peer, &length);
    printf("%d ", ntohs(peer.sin_port));
    if (connect(fd, to, sizeof service) == 0 || errno != EISCONN) printf("connected twice ");
    echo(fd, 0);
    fd = made("syscall", AF_INET, SOCK_STREAM, 0);
    if (syscall(SYS_connect, fd, to, sizeof service) < 0) perror("");
    echo(fd, 0);
    fd = made("sendto", AF_INET, SOCK_STREAM, 0);
    if (sendto(fd, LINE, strlen(LINE), MSG_FASTOPEN, to, sizeof service) < 0) perror("");
    echo(fd, 1);
    fd = made("sendmsg", AF_INET, SOCK_STREAM, 0);
    if (sendmsg(fd, &message, MSG_FASTOPEN) < 0) perror("");
    echo(fd, 1);
    fd = made("sendmmsg", AF_INET, SOCK_STREAM, 0);
    if (sendmmsg(fd, messages, 1, MSG_FASTOPEN) != 1) perror("");
    echo(fd, 1);
    // Its kernel may have no multipath TCP.
    fd = made("multipath", AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (fd < 0) puts("ok");
    else {
        if (connect(fd, to, sizeof service) < 0) perror("");
        echo(fd, 0);
    }
}

// Registered before it connects, as event loops do.
static void events(void) {
    struct epoll_event event = {.events = EPOLLOUT | EPOLLIN | EPOLLET};
    int fd = made("epoll", AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), loop = epoll_create1(0);
    event.data.fd = fd;
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
    if (connect(fd, (struct sockaddr *)&service, sizeof service) < 0 && errno != EINPROGRESS) perror("");
    do {
        if (epoll_wait(loop, &event, 1, 60000) != 1) {
            puts("no event");
            return;
        }
    } while (!(event.events & EPOLLOUT));
    echo(fd, 0);
    close(loop);
}

// What is not ours stays as it is: a listener of this process, and one that is not there.
static void untouched(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, peer;
    socklen_t length = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&here, sizeof here);
    getsockname(listener, (struct sockaddr *)&here, &length);
    ended("untouched-refused", connect(fd, (struct sockaddr *)&here, sizeof here));
    listen(listener, 1);
    ended("untouched", connect(fd, (struct sockaddr *)&here, sizeof here));
    length = sizeof peer;
    getpeername(fd, (struct sockaddr *)&peer, &length);
    printf("untouched-peer %s\n", peer.sin_port == here.sin_port ? "ok" : "another port");
    close(fd);
    close(listener);
}

int main(int count, char **arguments) {
    // What fails shows in its line, and the lines before it are not lost.
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct hostent *entry = count > 1 ? gethostbyname(arguments[1]) : NULL;
    printf("gethostbyname %s\n", entry ? entry->h_name : hstrerror(h_errno));
    if (entry) {
        memcpy(&service.sin_addr, entry->h_addr_list[0], 4);
        service.sin_port = htons(7);
        lookups(arguments[1]);
        if (count < 3) queries(arguments[1]);
        connections();
        events();
    }
    untouched();
    return 0;
}
