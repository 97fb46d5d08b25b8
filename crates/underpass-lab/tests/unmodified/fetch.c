// Fetches a page by name and prints it: `fetch NAME PATH`.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    char bytes[4096];
    ssize_t length;
    if (count < 3 || getaddrinfo(arguments[1], "80", &hints, &list)) return fputs("no such name\n", stderr), 1;
    int fd = socket(list->ai_family, SOCK_STREAM, 0);
    if (connect(fd, list->ai_addr, list->ai_addrlen)) return perror("connect"), 1;
    dprintf(fd, "GET %s HTTP/1.0\r\n\r\n", arguments[2]);
    while ((length = read(fd, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, length, stdout);
    return 0;
}
