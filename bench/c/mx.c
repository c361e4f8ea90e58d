/* The destination of the outbound bench: a mail server that offers TLS 1.3 and takes mail over nothing else.
 *
 *     mx [-r OCTETS] CHAIN KEY ADDRESS:PORT
 *       -r OCTETS      read no more than this a second, all connections together
 *
 * Prints "listening", and within 20 ms of a change "taken MESSAGES HANDSHAKES TIME": how many so far, and when the last
 * message was (seconds since 1970). Announces PIPELINING and answers in one write what came in one read. A client that
 * says MAIL in clear text gets 530. What is announced and asked of OpenSSL is declared here, so that its headers need
 * not be installed: the library itself is Python's.
 */
#include "wire.h"

#include <sys/timerfd.h>
#include <time.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
extern const void *TLS_server_method(void);
extern SSL_CTX *SSL_CTX_new(const void *method);
extern int SSL_CTX_use_certificate_chain_file(SSL_CTX *context, const char *file);
extern int SSL_CTX_use_PrivateKey_file(SSL_CTX *context, const char *file, int type);
extern long SSL_CTX_ctrl(SSL_CTX *context, int what, long value, void *pointer);
extern SSL *SSL_new(SSL_CTX *context);
extern void SSL_free(SSL *tls);
extern int SSL_set_fd(SSL *tls, int fd);
extern int SSL_accept(SSL *tls);
extern int SSL_read(SSL *tls, void *data, int size);
extern int SSL_write(SSL *tls, const void *data, int size);
extern int SSL_shutdown(SSL *tls);
extern int SSL_get_error(const SSL *tls, int result);
extern void ERR_clear_error(void);
enum { PEM = 1, WANT_READ = 2, SET_READ_AHEAD = 41, SET_MIN_VERSION = 123, TLS_1_3 = 0x0304 };

enum { LONGEST = 2048, ROOM = 8192, EVERY_MS = 20 };
static const char END[] = "\r\n.\r\n";
enum { END_SIZE = sizeof END - 1, BEFORE = END_SIZE - 1 };

struct session {
    int fd;
    SSL *tls;
    bool shaken, body, over;
    size_t kept, said;
    char part[LONGEST]; /* of a line that has not come whole */
    char tail[BEFORE];  /* the body's last octets */
    char out[ROOM];     /* replies that are due */
};

static SSL_CTX *context;
static long taken, handshakes, rate;
static struct timespec last;

static void answer(struct session *session, const char *text)
{
    size_t size = strlen(text);
    if (session->said + size > ROOM)
        session->over = true;
    else
        memcpy(session->out + session->said, text, size), session->said += size;
}

static void flush(struct session *session)
{
    int size = (int)session->said;
    session->said = 0;
    if (size == 0)
        return;
    int sent = session->tls ? SSL_write(session->tls, session->out, size) : (int)write(session->fd, session->out, size);
    if (sent != size)
        session->over = true;
}

static void obey(struct session *session, const char *line)
{
    if (strncasecmp(line, "EHLO", 4) == 0) {
        answer(session, "250-mx\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n");
        answer(session, session->tls ? "250 DSN\r\n" : "250-STARTTLS\r\n250 DSN\r\n");
    } else if (strncasecmp(line, "STARTTLS", 8) == 0 && !session->tls) {
        answer(session, "220 2.0.0 go on\r\n");
        flush(session);
        session->tls = SSL_new(context);
        SSL_set_fd(session->tls, session->fd);
    } else if (strncasecmp(line, "MAIL", 4) == 0 && !session->tls) {
        answer(session, "530 5.7.0 TLS first\r\n");
    } else if (strncasecmp(line, "DATA", 4) == 0) {
        answer(session, "354 go on\r\n");
        session->body = true;
        memcpy(session->tail, "..\r\n", BEFORE);
    } else if (strncasecmp(line, "QUIT", 4) == 0) {
        answer(session, "221 2.0.0 bye\r\n");
        flush(session);
        session->over = true;
    } else {
        answer(session, "250 2.0.0 ok\r\n");
    }
}

/* How many octets of `data` belong to the body, its final dot with them; 0: all do, and there is more to come. */
static size_t body_ends(struct session *session, const char *data, size_t size)
{
    char seam[2 * BEFORE];
    size_t fresh = size < BEFORE ? size : BEFORE;
    memcpy(seam, session->tail, BEFORE);
    memcpy(seam + BEFORE, data, fresh);
    const char *end = memmem(seam, BEFORE + fresh, END, END_SIZE);
    if (end != NULL)
        return (size_t)(end - seam) + END_SIZE - BEFORE;
    end = memmem(data, size, END, END_SIZE);
    if (end != NULL)
        return (size_t)(end - data) + END_SIZE;
    memmove(session->tail, session->tail + fresh, BEFORE - fresh);
    memcpy(session->tail + BEFORE - fresh, data + size - fresh, fresh);
    return 0;
}

static void feed(struct session *session, const char *data, size_t size)
{
    while (size > 0 && !session->over) {
        size_t used;
        if (session->body) {
            used = body_ends(session, data, size);
            if (used == 0)
                return;
            session->body = false;
            answer(session, "250 2.0.0 taken\r\n");
            taken++;
            clock_gettime(CLOCK_REALTIME, &last);
        } else {
            const char *end = memchr(data, '\n', size);
            used = end ? (size_t)(end + 1 - data) : size;
            if (session->kept + used >= LONGEST) {
                session->over = true;
                return;
            }
            memcpy(session->part + session->kept, data, used);
            session->kept += used;
            if (end) {
                session->part[session->kept] = '\0';
                session->kept = 0;
                obey(session, session->part);
            }
        }
        data += used;
        size -= used;
    }
}

static void pace(size_t octets)
{
    int64_t pause = (int64_t)octets * 1000000000 / rate;
    nanosleep(&(struct timespec){pause / 1000000000, pause % 1000000000}, NULL);
}

static void serve(struct session *session)
{
    static char data[64 << 10];
    while (!session->over) {
        ssize_t got;
        if (session->tls && !session->shaken) {
            int result = SSL_accept(session->tls);
            if (result != 1 && SSL_get_error(session->tls, result) == WANT_READ)
                return;
            if (result != 1)
                break;
            session->shaken = true;
            handshakes++;
        }
        if (session->tls) {
            got = SSL_read(session->tls, data, sizeof data);
            if (got <= 0 && SSL_get_error(session->tls, (int)got) == WANT_READ)
                return;
        } else {
            got = read(session->fd, data, sizeof data);
            if (got < 0 && errno == EAGAIN)
                return;
        }
        if (got <= 0)
            break;
        feed(session, data, (size_t)got);
        flush(session);
        if (rate)
            pace((size_t)got);
    }
    if (session->shaken)
        SSL_shutdown(session->tls);
    if (session->tls)
        SSL_free(session->tls);
    ERR_clear_error(); /* or the next session's SSL_get_error would read them */
    close(session->fd);
    free(session);
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
        answer(session, "220 mx ESMTP\r\n");
        flush(session);
    }
}

static void tell(int timer)
{
    static long told;
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) != sizeof ticks || told == taken)
        return;
    told = taken;
    printf("taken %ld %ld %ld.%06ld\n", taken, handshakes, (long)last.tv_sec, last.tv_nsec / 1000);
    fflush(stdout);
}

static void prepare_tls(const char *chain, const char *key)
{
    context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || SSL_CTX_use_certificate_chain_file(context, chain) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, PEM) != 1 ||
        SSL_CTX_ctrl(context, SET_MIN_VERSION, TLS_1_3, NULL) != 1) {
        fputs("the certificate or its key is of no use\n", stderr);
        exit(1);
    }
    SSL_CTX_ctrl(context, SET_READ_AHEAD, 1, NULL);
}

static int listen_on(const char *where)
{
    struct sockaddr_in address = endpoint(where);
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* accepted sockets inherit it */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
        fatal(where);
    socklen_t length = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &length); /* port 0 took a free one */
    printf("listening on %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "r:")) != -1;)
        if (option == 'r')
            rate = atol(optarg);
        else
            return 2;
    if (argc - optind != 3) {
        fputs("usage: mx [-r OCTETS] CHAIN KEY ADDRESS:PORT\n", stderr);
        return 2;
    }
    static struct session listener, ticker;
    begin();
    prepare_tls(argv[optind], argv[optind + 1]);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct timespec every = {.tv_nsec = EVERY_MS * 1000000};
    timerfd_settime(timer, 0, &(struct itimerspec){every, every}, NULL);
    watch(EPOLL_CTL_ADD, timer, EPOLLIN, &ticker);
    listener.fd = listen_on(argv[optind + 2]);
    watch(EPOLL_CTL_ADD, listener.fd, EPOLLIN, &listener);
    for (;;) {
        struct epoll_event events[256];
        int count = wait_for(events, 256);
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr == &ticker)
                tell(timer);
            else if (events[i].data.ptr == &listener)
                accept_all(listener.fd);
            else
                serve(events[i].data.ptr);
    }
}
