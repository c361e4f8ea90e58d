/* The mail server of the bench: takes mail as fast as one thread can, and keeps nothing of it.
 *
 *     sink CLIENT ADDRESS:PORT...
 *
 * Every connection must open with a PROXY v2 header (section 2.2 of the specification) that names the IPv4 address
 * CLIENT as its source; any other is closed without a word. So a hop that loses the client fails the run.
 * Prints "listening on PORT..." when it does. Its clients wait for each reply; what is sent behind one's final dot is not seen.
 */
#include "wire.h"

#include <stdlib.h>
#include <sys/resource.h>

enum { SIGNATURE = 12, FIXED = 16, TCP4 = 0x11, PROXY_V2 = 0x21, LONGEST = 512 };

enum stage { HEADER, COMMANDS, BODY };

struct session {
    int fd;
    enum stage stage;
    size_t kept;         /* octets in `part` */
    char part[LONGEST];  /* of a header or a line that has not come whole */
    char tail[5];        /* the body's last octets */
};

static struct in_addr client;

/* The header's length, 0 while it is not whole, -1 where it is not the one that must come. */
static ssize_t header_length(const char *at, size_t size)
{
    static const char signature[SIGNATURE] = "\r\n\r\n\0\r\nQUIT\n";
    if (memcmp(at, signature, size < SIGNATURE ? size : SIGNATURE) != 0)
        return -1;
    if (size < FIXED)
        return 0;
    const unsigned char *octets = (const unsigned char *)at;
    size_t length = FIXED + (size_t)(octets[14] << 8 | octets[15]);
    if (octets[12] != PROXY_V2 || octets[13] != TCP4 || length < FIXED + 12 || length > LONGEST)
        return -1;
    if (size < length)
        return 0;
    return memcmp(at + FIXED, &client, sizeof client) == 0 ? (ssize_t)length : -1;
}

/* The reply to one command; NULL where there is none. */
static const char *reply_to(struct session *session, const char *line)
{
    if (strncasecmp(line, "DATA", 4) == 0) {
        session->stage = BODY;
        memcpy(session->tail, "...\r\n", 5);
        return "354 go on\r\n";
    }
    if (strncasecmp(line, "QUIT", 4) == 0)
        return "221 2.0.0 bye\r\n";
    for (const char *verb = "EHLOHELOMAILRCPTRSETNOOP"; *verb; verb += 4)
        if (strncasecmp(line, verb, 4) == 0)
            return "250 2.0.0 ok\r\n";
    return NULL;
}

/* Follows the body by its last five octets only. True at the final dot. */
static bool body_ends(struct session *session, const char *data, size_t size)
{
    size_t fresh = size < 5 ? size : 5;
    memmove(session->tail, session->tail + fresh, 5 - fresh);
    memcpy(session->tail + 5 - fresh, data + size - fresh, fresh);
    return memcmp(session->tail, "\r\n.\r\n", 5) == 0;
}

/* Takes a header or a line from the front of `part`. False: the connection is over. */
static bool take(struct session *session, size_t *taken)
{
    *taken = 0;
    if (session->stage == HEADER) {
        ssize_t length = header_length(session->part, session->kept);
        if (length <= 0)
            return length == 0;
        *taken = (size_t)length;
        session->stage = COMMANDS;
        return say(session->fd, "220 sink ESMTP\r\n");
    }
    const char *end = memchr(session->part, '\n', session->kept);
    if (end == NULL)
        return session->kept < LONGEST;
    *taken = (size_t)(end + 1 - session->part);
    const char *reply = reply_to(session, session->part);
    return reply != NULL && say(session->fd, reply) && reply[1] != '2';
}

static bool feed(struct session *session, const char *data, size_t size)
{
    while (size > 0) {
        if (session->stage == BODY) {
            if (!body_ends(session, data, size))
                return true;
            session->stage = COMMANDS;
            return say(session->fd, "250 2.0.0 taken\r\n");
        }
        size_t room = LONGEST - session->kept, more = size < room ? size : room, taken;
        memcpy(session->part + session->kept, data, more);
        session->kept += more;
        data += more;
        size -= more;
        do {
            if (!take(session, &taken))
                return false;
            session->kept -= taken;
            memmove(session->part, session->part + taken, session->kept);
        } while (taken > 0 && session->kept > 0 && session->stage != BODY);
        if (session->stage == BODY && session->kept > 0) {
            data -= session->kept; /* what came with DATA belongs to the body */
            size += session->kept;
            session->kept = 0;
        }
    }
    return true;
}

static void accept_all(int listening)
{
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct session *session = calloc(1, sizeof *session);
        if (session == NULL)
            fatal("memory");
        session->fd = fd;
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, session);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        fatal("accept");
}

static void serve(struct session *session)
{
    static char data[256 << 10];
    ssize_t got = read(session->fd, data, sizeof data);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0 && feed(session, data, (size_t)got))
        return;
    close(session->fd);
    free(session);
}

int main(int argc, char **argv)
{
    if (argc < 3 || inet_pton(AF_INET, argv[1], &client) != 1) {
        fputs("usage: sink CLIENT ADDRESS:PORT...\n", stderr);
        return 2;
    }
    begin();
    printf("listening on");
    for (int i = 2; i < argc; i++) {
        struct session *listener = calloc(1, sizeof *listener);
        struct sockaddr_in address = endpoint(argv[i]);
        int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* accepted sockets inherit it */
        if (listener == NULL || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
            fatal(argv[i]);
        socklen_t length = sizeof address;
        getsockname(fd, (struct sockaddr *)&address, &length); /* port 0 took a free one */
        printf(" %d", ntohs(address.sin_port));
        listener->fd = -fd;
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, listener);
    }
    puts("");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int count = wait_for(events, 256);
        for (int i = 0; i < count; i++) {
            struct session *session = events[i].data.ptr;
            if (session->fd < 0)
                accept_all(-session->fd);
            else
                serve(session);
        }
    }
}
