/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The object authz-pam: a PAM service decides who may, by its account rules.  Nobody is authenticated: that a peer is who he says he is TLS has
 * found out already.
 *
 * PAM modules may ask directories over the network, and some never answer.  So each question has a thread of its own, which is neither of
 * the pools' (they must not fill up with it), and whoever asks waits for a bounded time.  `Question` is what both share; who of them lets go
 * last frees it.  Questions that PAM keeps count until it answers; beyond MAX_QUESTIONS nobody else is asked about.
 */
#include "authz-pam.h"
#include "object-internal.h"
#include "qapi-types.h"
#include "util/loop.h"
#include <security/pam_appl.h>
#include <stdatomic.h>
#include <string.h>

#define ANSWER_NS     INT64_C(10000000000)
#define MAX_QUESTIONS 16

typedef struct PamQuestion {
    char *service, *identity;
    pthread_mutex_t lock; /* innermost; protects: */
    Coroutine *asker;     /* waits; NULL: has been woken */
    bool answered, abandoned;
    int status;   /* of PAM, when answered */
    char *reason; /* what PAM says of it */
} PamQuestion;

static _Atomic unsigned questions;

/* Modules that want to talk to somebody find nobody. */
static int no_conversation(int n, const struct pam_message **messages,
                           struct pam_response **ret_answers, void *opaque)
{
    (void)n;
    (void)messages;
    (void)ret_answers;
    (void)opaque;
    return PAM_CONV_ERR;
}

static int ask_pam(PamQuestion *q)
{
    static const struct pam_conv conversation = {.conv = no_conversation};
    pam_handle_t *handle = NULL;
    int status = pam_start(q->service, q->identity, &conversation, &handle);

    if (status == PAM_SUCCESS) {
        status = pam_acct_mgmt(handle, PAM_SILENT);
    }
    q->reason = g_strdup(pam_strerror(handle, status));
    if (handle) {
        pam_end(handle, status);
    }
    return status;
}

static void question_free(PamQuestion *q)
{
    pthread_mutex_destroy(&q->lock);
    g_free(q->service);
    g_free(q->identity);
    g_free(q->reason);
    g_free(q);
}

static void wake(PamQuestion *q)
{
    if (q->asker) {
        co_wake(g_steal_pointer(&q->asker));
    }
}

static gpointer ask_main(gpointer opaque)
{
    PamQuestion *q = opaque;
    int status = ask_pam(q);
    bool last;

    atomic_fetch_sub(&questions, 1);
    pthread_mutex_lock(&q->lock);
    q->status = status;
    q->answered = true;
    last = q->abandoned;
    wake(q);
    pthread_mutex_unlock(&q->lock);
    if (last) {
        question_free(q);
    }
    return NULL;
}

static void too_late(void *opaque)
{
    PamQuestion *q = opaque;

    pthread_mutex_lock(&q->lock);
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

static bool start(PamQuestion *q, Error **errp)
{
    GThread *thread;

    if (atomic_fetch_add(&questions, 1) >= MAX_QUESTIONS) {
        atomic_fetch_sub(&questions, 1);
        error_set(errp, ERROR_BUSY, q->service, "authz",
                  "Unable to authorize user '%s': PAM has %d questions to answer already",
                  q->identity, MAX_QUESTIONS);
        return false;
    }
    thread = g_thread_try_new("pam", ask_main, q, NULL);
    if (!thread) {
        atomic_fetch_sub(&questions, 1);
        error_set(errp, ERROR_LIMIT, q->service, "authz",
                  "Unable to authorize user '%s': no thread can be started", q->identity);
        return false;
    }
    g_thread_unref(thread);
    return true;
}

bool coroutine_fn authz_pam_ask(const char *service, const char *identity, Error **errp)
{
    PamQuestion *q = g_new0(PamQuestion, 1);
    bool answered, permits = false;
    Timer timer;

    pthread_mutex_init(&q->lock, NULL);
    q->service = g_strdup(service);
    q->identity = g_strdup(identity);
    q->asker = co_self();
    if (!start(q, errp)) {
        question_free(q);
        return false;
    }
    timer_init(&timer, too_late, q);
    timer_arm(&timer, clock_ns() + ANSWER_NS);
    co_yield();
    timer_cancel(&timer);
    pthread_mutex_lock(&q->lock);
    answered = q->answered;
    q->abandoned = !answered;
    pthread_mutex_unlock(&q->lock);
    if (!answered) {
        error_set(errp, ERROR_TIMEOUT, service, "authz",
                  "Unable to authorize user '%s': PAM service '%s' does not answer", identity,
                  service);
        return false; /* who asks PAM frees it */
    }
    permits = q->status == PAM_SUCCESS;
    if (!permits) {
        error_set(errp, ERROR_PERMISSION, service, "authz", "Unable to authorize user '%s': %s",
                  identity, q->reason);
    }
    question_free(q);
    return permits;
}

/* ---- the object ---- */

static bool pam_create(Object *o, Error **errp)
{
    if (o->options->u.authz_pam.service[0] == '\0') {
        error_set(errp, ERROR_INVALID, o->id, "authz",
                  "The name of a PAM service must not be empty");
        return false;
    }
    return true;
}

static const ObjectProperty pam_properties[] = {
    {"service", "string", NULL},
    {0},
};

const ObjectClass object_type_authz_pam = {
    .name = "authz-pam",
    .parent = "authz",
    .size = sizeof(Object),
    .properties = pam_properties,
    .create = pam_create,
};
