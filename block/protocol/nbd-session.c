/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD client: keeping a session.
 *
 * One coroutine per client, on the client's loop, reads for as long as a session lasts and looks for a new one when it is lost; a second
 * one per session sends what a full socket did not take from those who asked.  Reading is where answers come from: it calls back into
 * nbd-io.c, which wakes the requests.
 *
 * A lost session: its requests are told; those that come, or come again, wait for the next session until reconnect-delay has passed
 * since the loss, then fail at once until there is one.  Attempts go on for as long as the node is open, with pauses of 0.1 s that grow to 5 s.
 * A server that comes back with another export under the name (smaller, read-only, able to do less) is not taken.
 *
 * Nobody can tell whether a server that went away has kept what it had not flushed: as with every other client, that is the server's
 * promise to keep.
 */
#include "nbd-client.h"
#include "qapi-types.h"
#include "util/log.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_PAUSE_NS (INT64_C(100) * 1000000)
#define MAX_PAUSE_NS   (INT64_C(5) * 1000000000)
#define PAUSE_STEP_NS  (INT64_C(50) * 1000000)
#define LEAVE_NS       (INT64_C(1) * 1000000000)
/* Reads in a row without a look at what else the loop has to do. */
#define READ_BATCH 64

NbdSession *nbd_session_ref(NbdSession *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void nbd_session_unref(NbdSession *s)
{
    if (atomic_fetch_sub(&s->refs, 1) == 1) {
        nbd_close(s->h);
        close(s->fd);
        pthread_mutex_destroy(&s->lock);
        g_free(s);
    }
}

/* ---- moving bytes ---- */

static bool has_ended(const NbdSession *s)
{
    return nbd_aio_is_dead(s->h) == 1 || nbd_aio_is_closed(s->h) == 1;
}

static bool must_send(const NbdSession *s)
{
    return nbd_aio_get_direction(s->h) & LIBNBD_AIO_DIRECTION_WRITE;
}

void nbd_session_kick(NbdSession *s)
{
    if (must_send(s)) {
        pthread_mutex_lock(&s->lock);
        s->want_write = true;
        co_queue_wake_all(&s->writer);
        pthread_mutex_unlock(&s->lock);
    }
}

typedef struct Sender {
    NbdSession *s;
    CoGroup done;
} Sender;

static bool coroutine_fn wait_for_work(NbdSession *s)
{
    bool over;

    pthread_mutex_lock(&s->lock);
    while (!s->want_write && !s->over) {
        co_queue_wait(&s->writer, &s->lock);
    }
    s->want_write = false;
    over = s->over;
    pthread_mutex_unlock(&s->lock);
    return !over;
}

static void coroutine_fn send_all(void *opaque)
{
    Sender *w = opaque;
    NbdSession *s = w->s;

    while (wait_for_work(s)) {
        while (must_send(s) && co_poll(s->fd, POLLOUT, -1) > 0) {
            /* Somebody else may have sent it meanwhile; then this is an error that does not count. */
            if (must_send(s) && nbd_aio_notify_write(s->h) < 0) {
                break;
            }
        }
    }
    co_group_done(&w->done);
}

static bool is_readable(const NbdSession *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/* Until the connection is over; the reason, if libnbd told one, is the caller's to free.  libnbd is told of bytes only when there are some: when
 * it finds none it waits for them, and sends no command until they are there. */
static char *coroutine_fn receive_all(NbdSession *s)
{
    char *reason = NULL;

    while (!has_ended(s) && co_poll(s->fd, POLLIN, -1) > 0) {
        for (unsigned i = 0; i < READ_BATCH && !has_ended(s) && (i == 0 || is_readable(s)); i++) {
            if (nbd_aio_notify_read(s->h) < 0) {
                g_free(reason);
                reason = g_strdup(nbd_get_error());
            }
            nbd_session_kick(s);
        }
    }
    return reason;
}

static char *coroutine_fn run_session(NbdSession *s)
{
    Sender w = {.s = s};
    char *reason;

    co_group_init(&w.done);
    co_group_add(&w.done, 1);
    co_start(send_all, &w);
    reason = receive_all(s);
    shutdown(s->fd, SHUT_RDWR);
    pthread_mutex_lock(&s->lock);
    s->over = true;
    co_queue_wake_all(&s->writer);
    pthread_mutex_unlock(&s->lock);
    co_group_wait(&w.done);
    co_group_destroy(&w.done);
    if (!has_ended(s)) {
        (void)nbd_aio_notify_read(s->h); /* commands in flight are told by this */
    }
    if (s->tls) {
        nbd_tls_end(s->tls);
        s->tls = NULL;
    }
    return reason;
}

/* ---- for requests ---- */

NbdSession *coroutine_fn nbd_client_enter(NbdClient *c)
{
    NbdSession *s;

    pthread_mutex_lock(&c->lock);
    while (!c->session && !c->stopped && clock_ns() < c->wait_until) {
        co_queue_wait(&c->waiting, &c->lock);
    }
    s = c->session ? nbd_session_ref(c->session) : NULL;
    pthread_mutex_unlock(&c->lock);
    return s;
}

void nbd_client_lost(NbdClient *c, NbdSession *s)
{
    pthread_mutex_lock(&c->lock);
    if (c->session == s) {
        c->session = NULL;
        c->wait_until = clock_ns() + c->reconnect_ns;
        shutdown(s->fd, SHUT_RDWR); /* the manager hears of it by this */
    }
    pthread_mutex_unlock(&c->lock);
}

static void waiting_over(void *opaque)
{
    NbdClient *c = opaque;

    pthread_mutex_lock(&c->lock);
    co_queue_wake_all(&c->waiting);
    pthread_mutex_unlock(&c->lock);
}

/* ---- the manager ---- */

static bool is_stopped(NbdClient *c)
{
    bool stopped;

    pthread_mutex_lock(&c->lock);
    stopped = c->stopped;
    pthread_mutex_unlock(&c->lock);
    return stopped;
}

/* Can it do what the one before could? */
static bool is_as_good(const NbdFacts *old, const NbdFacts *now)
{
    return now->size >= old->size && now->read_only <= old->read_only && now->flush >= old->flush &&
           now->trim >= old->trim && now->zero >= old->zero && now->context >= old->context &&
           now->min_block <= old->min_block && now->max_block >= old->max_block;
}

static void coroutine_fn pause_for(NbdClient *c, int64_t ns)
{
    for (int64_t end = clock_ns() + ns; clock_ns() < end && !is_stopped(c);) {
        co_sleep_ns(MIN(PAUSE_STEP_NS, ns));
    }
}

static NbdSession *coroutine_fn reconnect(NbdClient *c, const NbdFacts *facts)
{
    int64_t pause = FIRST_PAUSE_NS;

    for (;;) {
        g_autoptr(Error) err = NULL;
        NbdSession *s = is_stopped(c)
                            ? NULL
                            : nbd_client_connect(&c->target, clock_ns() + NBD_CONNECT_NS, &err);

        if (s && is_as_good(facts, &s->facts)) {
            return s;
        }
        if (s) {
            log_warn_limited("node '%s': the NBD server has another export of that name now",
                             c->name);
            if (s->tls) {
                nbd_tls_end(s->tls);
            }
            nbd_session_unref(s);
        }
        if (is_stopped(c) || c->target.server->type == SOCKET_ADDRESS_TYPE_FD) {
            return NULL;
        }
        pause_for(c, pause);
        pause = MIN(pause * 2, MAX_PAUSE_NS);
    }
}

/* False: no session is wanted any more. */
static bool publish(NbdClient *c, NbdSession *s)
{
    bool wanted;

    pthread_mutex_lock(&c->lock);
    wanted = !c->stopped;
    if (wanted) {
        c->session = s;
    }
    co_queue_wake_all(&c->waiting);
    pthread_mutex_unlock(&c->lock);
    return wanted;
}

static void coroutine_fn keep_session(NbdClient *c, NbdSession *s)
{
    NbdFacts facts = s->facts;

    while (s) {
        g_autofree char *reason = NULL;
        int64_t wait_until;
        bool stopped;

        if (!publish(c, s)) {
            shutdown(s->fd, SHUT_RDWR);
        }
        reason = run_session(s);
        nbd_client_lost(c, s);
        pthread_mutex_lock(&c->lock);
        stopped = c->stopped;
        wait_until = c->wait_until;
        pthread_mutex_unlock(&c->lock);
        nbd_session_unref(s);
        if (!stopped) {
            log_warn("node '%s': the connection to NBD server '%s' is lost%s%s", c->name,
                     c->target.shown, reason ? ": " : "", reason ? reason : "");
        }
        timer_arm(&c->waiting_over, wait_until);
        s = reconnect(c, &facts);
        timer_cancel(&c->waiting_over);
        if (s) {
            log_info("node '%s': connected to NBD server '%s' again", c->name, c->target.shown);
        }
    }
    /* None will come any more. */
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    co_queue_wake_all(&c->waiting);
    pthread_mutex_unlock(&c->lock);
}

typedef struct Opening {
    NbdClient *c;
    int64_t open_ns;
    Error **errp;
    NbdFacts *ret_facts;
    bool ok;
    Coroutine *opener;
} Opening;

static NbdSession *coroutine_fn connect_first(NbdClient *c, int64_t open_ns, Error **errp)
{
    int64_t now = clock_ns(), end = now + open_ns, pause = FIRST_PAUSE_NS;

    for (;;) {
        g_autoptr(Error) err = NULL;
        NbdSession *s = nbd_client_connect(&c->target, open_ns ? end : now + NBD_CONNECT_NS, &err);

        if (s) {
            return s;
        }
        if (clock_ns() + pause >= end || c->target.server->type == SOCKET_ADDRESS_TYPE_FD) {
            error_move(errp, &err);
            return NULL;
        }
        co_sleep_ns(pause);
        pause = MIN(pause * 2, MAX_PAUSE_NS / 5);
    }
}

static void coroutine_fn manage(void *opaque)
{
    Opening *o = opaque;
    NbdClient *c = o->c;
    NbdSession *s = connect_first(c, o->open_ns, o->errp);

    o->ok = s;
    if (s) {
        *o->ret_facts = s->facts;
        timer_init(&c->waiting_over, waiting_over, c);
        (void)publish(c, s);
    }
    co_wake(o->opener); /* o is gone from here on */
    if (s) {
        keep_session(c, s);
    }
    co_group_done(&c->manager);
}

bool coroutine_fn nbd_client_start(NbdClient *c, int64_t open_ns, NbdFacts *ret_facts, Error **errp)
{
    Opening o = {
        .c = c, .open_ns = open_ns, .errp = errp, .ret_facts = ret_facts, .opener = co_self()};

    co_group_init(&c->manager);
    co_group_add(&c->manager, 1);
    co_spawn(iothread_loop(c->thread), manage, &o);
    co_yield();
    if (!o.ok) {
        co_group_wait(&c->manager);
        co_group_destroy(&c->manager);
    }
    return o.ok;
}

void nbd_client_stop_waiting(NbdClient *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->session) {
        c->wait_until = clock_ns();
        co_queue_wake_all(&c->waiting);
    }
    pthread_mutex_unlock(&c->lock);
}

void nbd_client_stop(NbdClient *c)
{
    atomic_store(&c->target.stopped, true);
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    if (c->session) {
        shutdown(c->session->fd, SHUT_RDWR);
    }
    co_queue_wake_all(&c->waiting);
    pthread_mutex_unlock(&c->lock);
}

void coroutine_fn nbd_client_end(NbdClient *c)
{
    NbdSession *s = NULL;
    int64_t end = clock_ns() + LEAVE_NS;

    pthread_mutex_lock(&c->lock);
    c->stopped = true; /* a connection that ends now is not missed */
    s = c->session ? nbd_session_ref(c->session) : NULL;
    pthread_mutex_unlock(&c->lock);
    if (s && nbd_aio_disconnect(s->h, 0) == 0) {
        /* The server closes the connection when it has read that. */
        nbd_session_kick(s);
        while (!has_ended(s) && clock_ns() < end) {
            co_sleep_ns(PAUSE_STEP_NS / 50);
        }
    }
    if (s) {
        nbd_session_unref(s);
    }
    nbd_client_stop(c);
    co_group_wait(&c->manager);
    co_group_destroy(&c->manager);
}
