/* What both programs of the bench need of the network: one epoll, short writes, addresses. */
#ifndef WIRE_H
#define WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int epoll;

__attribute__((noreturn)) static inline void fatal(const char *what)
{
    perror(what);
    exit(1);
}

static inline void begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    if (epoll < 0)
        fatal("epoll");
}

static inline void watch(int how, int fd, uint32_t events, void *whose)
{
    struct epoll_event event = {.events = events, .data.ptr = whose};
    if (epoll_ctl(epoll, how, fd, &event) != 0)
        fatal("epoll_ctl");
}

static inline int wait_for(struct epoll_event *events, int most)
{
    int count = epoll_wait(epoll, events, most, -1);
    if (count < 0 && errno != EINTR)
        fatal("epoll_wait");
    return count < 0 ? 0 : count;
}

/* A line or a few: smaller than any socket buffer, so a part is a failure. */
static inline bool say(int fd, const char *text)
{
    size_t size = strlen(text);
    return write(fd, text, size) == (ssize_t)size;
}

/* "192.0.2.1:25" */
static inline struct sockaddr_in endpoint(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64] = "";
    unsigned port = 0;
    if (sscanf(text, "%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "not ADDRESS:PORT: %s\n", text);
        exit(2);
    }
    address.sin_port = htons((uint16_t)port);
    return address;
}

#endif
