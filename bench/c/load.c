/* The client of the bench, where smtp-source will not do: sessions at a fixed rate, large messages, sessions that idle.
 *
 *     load [options] COUNT ADDRESS:PORT        COUNT sessions, each a message
 *       -r RATE        start RATE sessions a second whatever becomes of them (open loop)
 *       -c SESSIONS    without -r: so many at a time (1)
 *       -s OCTETS      of each message (1024)
 *       -i             stop at the banner and keep all sessions open until killed; says "ready"
 *       -p CLIENT      open with a PROXY v2 header that claims CLIENT (IPv4)
 *       -b SOURCE      connect from this address
 *       -t RECIPIENT   (b@example.org)
 *
 * Prints a line for each session, "BANNER DONE": microseconds from the moment when it was due to start to the banner,
 * and to the reply to QUIT. A late start counts: else a stalled hop would slow its own measurement down. At last
 * "seconds N", from the first start to the last reply. An answer that is not the expected one ends the program with 1.
 */
#include "wire.h"

#include <sys/timerfd.h>
#include <time.h>

/* What the server must say, by its first digit, and what is said then. At BODY that is the message. */
static struct { char expected; const char *then; } DIALOGUE[] = {
    {'2', "HELO bench.example.net\r\n"},
    {'2', "MAIL FROM:<a@example.net>\r\n"},
    {'2', "RCPT TO:<b@example.org>\r\n"},
    {'2', "DATA\r\n"},
    {'3', ""},
    {'2', "QUIT\r\n"},
    {'2', NULL},
};
enum { BANNER = 0, RCPT = 2, BODY = 4, LONGEST = 512 };
static const char FINAL_DOT[] = ".\r\n";

struct session {
    int fd, step;
    int64_t due, banner, done; /* nanoseconds */
    int64_t left;              /* octets of the message, its final dot with them */
    size_t kept;
    char reply[LONGEST];
};

static struct {
    struct sockaddr_in to, from;
    struct in_addr client;
    bool claim, idle;
    long count, at_once;
    int64_t size, interval;
} options = {.at_once = 1, .size = 1024};

static struct session *sessions;
static long started, finished;
static int64_t began;
static char text[256 << 10]; /* lines of 64 octets */

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

__attribute__((noreturn)) static void failed(const struct session *session, const char *why)
{
    fprintf(stderr, "session %ld, step %d: %s\n", (long)(session - sessions), session->step, why);
    exit(1);
}

static void claim(struct session *session)
{
    unsigned char header[28] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    uint16_t port = htons((uint16_t)(1024 + (session - sessions) % 60000));
    memcpy(header + 16, &options.client, 4);
    memcpy(header + 20, &options.to.sin_addr, 4);
    memcpy(header + 24, &port, 2);
    memcpy(header + 26, &options.to.sin_port, 2);
    if (write(session->fd, header, sizeof header) != sizeof header)
        failed(session, "its header did not fit");
}

static void start(void)
{
    struct session *session = &sessions[started];
    int yes = 1;
    session->due = options.interval ? began + started * options.interval : now();
    session->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (options.from.sin_family == AF_INET) {
        setsockopt(session->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
        if (bind(session->fd, (struct sockaddr *)&options.from, sizeof options.from) != 0)
            fatal("bind");
    }
    if (connect(session->fd, (struct sockaddr *)&options.to, sizeof options.to) != 0 && errno != EINPROGRESS)
        fatal("connect");
    watch(EPOLL_CTL_ADD, session->fd, options.claim ? EPOLLOUT : EPOLLIN, session);
    started++;
}

/* The message, as far as the connection takes it. */
static void send_body(struct session *session)
{
    int64_t dot = sizeof FINAL_DOT - 1;
    while (session->left > 0) {
        bool last = session->left <= dot;
        const char *from = last ? FINAL_DOT + dot - session->left : text + (64 - (session->left - dot) % 64) % 64;
        int64_t most = last ? session->left : session->left - dot;
        int64_t whole = (int64_t)sizeof text - 64;
        ssize_t sent = send(session->fd, from, (size_t)(most < whole ? most : whole), last ? 0 : MSG_MORE);
        if (sent < 0 && errno != EAGAIN)
            failed(session, strerror(errno));
        if (sent < 0) {
            watch(EPOLL_CTL_MOD, session->fd, EPOLLOUT, session);
            return;
        }
        session->left -= sent;
    }
    watch(EPOLL_CTL_MOD, session->fd, EPOLLIN, session);
}

static void finish(struct session *session)
{
    session->done = now();
    finished++;
    if (!options.idle)
        close(session->fd);
    if (!options.interval && started < options.count)
        start();
}

/* One whole reply has come. */
static void answer(struct session *session)
{
    if (session->reply[0] != DIALOGUE[session->step].expected)
        failed(session, session->reply);
    if (session->step == BANNER)
        session->banner = now();
    const char *then = DIALOGUE[session->step].then;
    if (then == NULL || options.idle) {
        finish(session);
        return;
    }
    if (session->step == BODY) {
        session->left = options.size + (int64_t)sizeof FINAL_DOT - 1;
        send_body(session);
    } else if (!say(session->fd, then)) {
        failed(session, "a command did not fit");
    }
    session->step++;
}

static void serve(struct session *session, uint32_t events)
{
    if (events & EPOLLOUT) {
        if (session->left > 0) {
            send_body(session);
        } else {
            claim(session);
            watch(EPOLL_CTL_MOD, session->fd, EPOLLIN, session);
        }
    }
    if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        return;
    ssize_t got = read(session->fd, session->reply + session->kept, LONGEST - 1 - session->kept);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        failed(session, got < 0 ? strerror(errno) : "closed by the other side");
    session->kept += (size_t)got;
    session->reply[session->kept] = '\0';
    if (session->reply[session->kept - 1] != '\n')
        return;
    session->kept = 0;
    answer(session);
}

static void start_due(int timer)
{
    uint64_t due = 0;
    if (read(timer, &due, sizeof due) == sizeof due)
        for (; due > 0 && started < options.count; due--)
            start();
}

static void run(void)
{
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    began = now();
    if (options.interval) {
        struct timespec every = {options.interval / 1000000000, options.interval % 1000000000};
        struct timespec first = {began / 1000000000, began % 1000000000};
        struct itimerspec spec = {.it_interval = every, .it_value = first};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
        watch(EPOLL_CTL_ADD, timer, EPOLLIN, NULL);
    } else {
        while (started < options.count && started < options.at_once)
            start();
    }
    while (finished < options.count) {
        struct epoll_event events[256];
        int count = wait_for(events, 256);
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr == NULL)
                start_due(timer);
            else
                serve(events[i].data.ptr, events[i].events);
    }
}

static void report(void)
{
    int64_t last = began;
    for (long i = 0; i < options.count; i++) {
        struct session *session = &sessions[i];
        printf("%.1f %.1f\n", (session->banner - session->due) / 1e3, (session->done - session->due) / 1e3);
        last = session->done > last ? session->done : last;
    }
    printf("seconds %.6f\n", (last - began) / 1e9);
}

static void read_options(int argc, char **argv)
{
    static char rcpt[LONGEST];
    for (int option; (option = getopt(argc, argv, "r:c:s:ip:b:t:")) != -1;) {
        switch (option) {
        case 'r': options.interval = (int64_t)(1e9 / atof(optarg)); break;
        case 'c': options.at_once = atol(optarg); break;
        case 's': options.size = atoll(optarg) / 64 * 64; break;
        case 'i': options.idle = true; break;
        case 'p': options.claim = inet_pton(AF_INET, optarg, &options.client) == 1; break;
        case 'b':
            options.from.sin_family = AF_INET;
            inet_pton(AF_INET, optarg, &options.from.sin_addr);
            break;
        case 't':
            snprintf(rcpt, sizeof rcpt, "RCPT TO:<%s>\r\n", optarg);
            DIALOGUE[RCPT].then = rcpt;
            break;
        default: exit(2);
        }
    }
    if (argc - optind != 2) {
        fputs("usage: load [options] COUNT ADDRESS:PORT\n", stderr);
        exit(2);
    }
    options.count = atol(argv[optind]);
    options.to = endpoint(argv[optind + 1]);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    begin();
    sessions = calloc((size_t)options.count, sizeof *sessions);
    if (sessions == NULL)
        fatal("memory");
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : 'x';
    run();
    if (!options.idle) {
        report();
        return 0;
    }
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
