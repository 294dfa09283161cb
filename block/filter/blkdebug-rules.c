/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rules of the filter `blkdebug`: what events do, and which requests fail.
 *
 * All of it is under the state's lock.  A request at a breakpoint waits without it; who lets it go takes it off the list first, so
 * everyone is woken once.
 */
#include "blkdebug.h"
#include "util/log.h"
#include <errno.h>

#define SECTOR UINT64_C(512)
#define ANY    (-1)

typedef enum RuleKind { RULE_ERROR, RULE_STATE, RULE_BREAK } RuleKind;

typedef struct Rule {
    RuleKind kind;
    BlkdebugEvent event;
    uint64_t state; /* in which it counts; 0: any */
    /* RULE_ERROR */
    unsigned types; /* bits 1 << BlkdebugIOType */
    int error;      /* positive errno */
    int64_t offset; /* byte that a request has to touch; ANY: no matter */
    bool once, immediately;
    uint64_t new_state; /* RULE_STATE */
    char *tag;          /* RULE_BREAK */
} Rule;

typedef struct Suspended {
    char *tag;
    Coroutine *co;
} Suspended;

static void rule_free(void *opaque)
{
    Rule *rule = opaque;

    g_free(rule->tag);
    g_free(rule);
}

void blkdebug_rules_init(BlkdebugState *s)
{
    pthread_mutex_init(&s->lock, NULL);
    s->state = 1;
    s->rules = g_ptr_array_new_with_free_func(rule_free);
    s->active = g_ptr_array_new();
    g_queue_init(&s->suspended);
}

void blkdebug_rules_destroy(BlkdebugState *s)
{
    g_ptr_array_free(s->active, true);
    g_ptr_array_free(s->rules, true);
    pthread_mutex_destroy(&s->lock);
}

static bool number(const Node *n, const char *name, bool has, int64_t v, int64_t max, Error **errp)
{
    if (has && (v < 0 || v > max)) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter '%s' expects a value from 0 to %" G_GINT64_FORMAT, name, max);
        return false;
    }
    return true;
}

static bool add_error(const Node *n, BlkdebugState *s, const BlkdebugInjectErrorOptions *o,
                      Error **errp)
{
    unsigned all = (1u << BLKDEBUG_IO_TYPE__MAX) - 1;
    Rule *rule;

    if (!number(n, "state", o->has_state, o->state, INT_MAX, errp) ||
        !number(n, "errno", o->has_q_errno, o->q_errno, 4095, errp) ||
        (o->has_sector && o->sector != ANY &&
         !number(n, "sector", true, o->sector, INT64_MAX / (int64_t)SECTOR, errp))) {
        return false;
    }
    rule = g_new0(Rule, 1);
    rule->kind = RULE_ERROR;
    rule->event = o->event;
    rule->state = o->has_state ? o->state : 0;
    rule->types = o->has_iotype ? 1u << o->iotype : all & ~(1u << BLKDEBUG_IO_TYPE_BLOCK_STATUS);
    rule->error = o->has_q_errno ? o->q_errno : EIO;
    rule->offset = o->has_sector && o->sector != ANY ? o->sector * (int64_t)SECTOR : ANY;
    rule->once = o->has_once && o->once;
    rule->immediately = o->has_immediately && o->immediately;
    g_ptr_array_add(s->rules, rule);
    return true;
}

bool blkdebug_add_rules(const Node *n, BlkdebugState *s,
                        const BlkdebugInjectErrorOptionsList *inject,
                        const BlkdebugSetStateOptionsList *set, Error **errp)
{
    for (; inject; inject = inject->next) {
        if (!add_error(n, s, inject->value, errp)) {
            return false;
        }
    }
    for (; set; set = set->next) {
        const BlkdebugSetStateOptions *o = set->value;
        Rule *rule;

        if (!number(n, "state", o->has_state, o->state, INT_MAX, errp) ||
            !number(n, "new_state", true, o->new_state, INT_MAX, errp)) {
            return false;
        }
        rule = g_new0(Rule, 1);
        rule->kind = RULE_STATE;
        rule->event = o->event;
        rule->state = o->has_state ? o->state : 0;
        rule->new_state = o->new_state;
        g_ptr_array_add(s->rules, rule);
    }
    return true;
}

/* ---- events ---- */

/* Under lock.  Takes the breakpoint off and puts who met it on the list. */
static Suspended *suspend(BlkdebugState *s, Rule *rule)
{
    Suspended *x = g_new0(Suspended, 1);

    x->tag = g_steal_pointer(&rule->tag);
    x->co = co_self();
    g_queue_push_tail(&s->suspended, x);
    g_ptr_array_remove(s->rules, rule);
    return x;
}

/* Under lock.  All rules of the event count in the state that there was; the first breakpoint is returned. */
static Rule *apply_rules(BlkdebugState *s, BlkdebugEvent event)
{
    uint64_t state = s->state;
    bool errors = false, moved = false;
    Rule *at = NULL;

    for (guint i = 0; i < s->rules->len; i++) {
        Rule *rule = g_ptr_array_index(s->rules, i);

        if (rule->event != event || (rule->state && rule->state != state)) {
            continue;
        }
        switch (rule->kind) {
        case RULE_ERROR:
            if (!errors) {
                g_ptr_array_set_size(s->active, 0);
                errors = true;
            }
            g_ptr_array_add(s->active, rule);
            break;
        case RULE_STATE:
            if (!moved) {
                s->state = rule->new_state;
                moved = true;
            }
            break;
        case RULE_BREAK:
            at = at ? at : rule;
            break;
        }
    }
    return at;
}

void coroutine_fn blkdebug_event(Node *n, int event)
{
    BlkdebugState *s = n->state;
    g_autofree char *tag = NULL;
    Rule *at;

    pthread_mutex_lock(&s->lock);
    at = apply_rules(s, (BlkdebugEvent)event);
    if (at && !s->abandoned) {
        tag = g_strdup(at->tag);
        suspend(s, at);
    }
    pthread_mutex_unlock(&s->lock);
    if (tag) {
        log_info("blkdebug: Suspended request '%s'", tag);
        co_yield();
        log_info("blkdebug: Resuming request '%s'", tag);
    }
}

/* ---- requests ---- */

static bool touches(const Rule *rule, uint64_t offset, uint64_t bytes)
{
    return rule->offset == ANY ||
           ((uint64_t)rule->offset >= offset && (uint64_t)rule->offset - offset < bytes);
}

int coroutine_fn blkdebug_check(Node *n, uint64_t offset, uint64_t bytes, BlkdebugIOType type)
{
    BlkdebugState *s = n->state;
    bool immediately = true;
    int error = 0;

    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < s->active->len; i++) {
        Rule *rule = g_ptr_array_index(s->active, i);

        if ((rule->types & (1u << type)) && touches(rule, offset, bytes)) {
            error = rule->error;
            immediately = rule->immediately;
            if (rule->once) {
                g_ptr_array_remove_index(s->active, i);
                g_ptr_array_remove(s->rules, rule);
            }
            break;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (error && !immediately) {
        co_reschedule();
    }
    return -error;
}

/* ---- breakpoints ---- */

static int set_break(Node *n, BlkdebugEvent event, const char *tag)
{
    BlkdebugState *s = n->state;
    Rule *rule = g_new0(Rule, 1);

    rule->kind = RULE_BREAK;
    rule->event = event;
    rule->tag = g_strdup(tag);
    pthread_mutex_lock(&s->lock);
    g_ptr_array_add(s->rules, rule);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* Under lock.  tag: NULL: any.  Lets the first one go, or all; false: there is none. */
static bool let_go(BlkdebugState *s, const char *tag, bool all)
{
    bool any = false;

    for (GList *l = s->suspended.head, *next; l; l = next) {
        Suspended *x = l->data;

        next = l->next;
        if ((tag && strcmp(x->tag, tag) != 0) || (any && !all)) {
            continue;
        }
        any = true;
        g_queue_delete_link(&s->suspended, l);
        co_wake(x->co);
        g_free(x->tag);
        g_free(x);
    }
    return any;
}

static int remove_break(Node *n, const char *tag)
{
    BlkdebugState *s = n->state;
    bool any;

    pthread_mutex_lock(&s->lock);
    any = let_go(s, tag, true);
    for (guint i = s->rules->len; i-- > 0;) {
        const Rule *rule = g_ptr_array_index(s->rules, i);

        if (rule->kind == RULE_BREAK && strcmp(rule->tag, tag) == 0) {
            g_ptr_array_remove_index(s->rules, i);
            any = true;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return any ? 0 : -ENOENT;
}

static int resume(Node *n, const char *tag)
{
    BlkdebugState *s = n->state;
    bool any;

    pthread_mutex_lock(&s->lock);
    any = let_go(s, tag, false);
    pthread_mutex_unlock(&s->lock);
    return any ? 0 : -ENOENT;
}

static bool is_suspended(Node *n, const char *tag)
{
    BlkdebugState *s = n->state;
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (GList *l = s->suspended.head; l && !found; l = l->next) {
        found = strcmp(((const Suspended *)l->data)->tag, tag) == 0;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

void blkdebug_abandon(Node *n)
{
    BlkdebugState *s = n->state;

    pthread_mutex_lock(&s->lock);
    s->abandoned = true;
    let_go(s, NULL, true);
    pthread_mutex_unlock(&s->lock);
}

const DebugOps blkdebug_ops = {
    .set_break = set_break,
    .remove_break = remove_break,
    .resume = resume,
    .is_suspended = is_suspended,
};
