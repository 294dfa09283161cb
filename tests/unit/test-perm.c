/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Updates of permissions: those of different disks go side by side, those that have a node in common one after another, in their order.
 *
 * A disk is a filter on a file; taking the file's locks waits until the test lets it go on.
 */
#include "block/driver.h"
#include "block/node-internal.h"
#include "node-test.h"

/* ---- a file whose locks take as long as the test wants ---- */

typedef struct SlowFile {
    bool closed;       /* who takes locks waits */
    unsigned failures; /* so many do not get them */
    unsigned inside;   /* who waits */
    unsigned perm;     /* what was taken */
} SlowFile;

static SlowFile *slow(const Node *n)
{
    return n->state;
}

static bool coroutine_fn slow_prepare(Node *n, unsigned perm, unsigned shared, Error **errp)
{
    SlowFile *s = slow(n);

    (void)perm;
    (void)shared;
    s->inside++;
    g_assert_cmpuint(s->inside, ==, 1); /* nobody else updates this node */
    while (s->closed) {
        co_sleep_ns(20000);
    }
    s->inside--;
    if (s->failures > 0) {
        s->failures--;
        error_set(errp, ERROR_BUSY, n->name, "lock", "no lock");
        return false;
    }
    return true;
}

static void slow_commit(Node *n, unsigned perm, unsigned shared)
{
    (void)shared;
    slow(n)->perm = perm;
}

static void slow_abort(Node *n)
{
    (void)n;
}

static const BlockDriver slow_driver = {
    .name = "slow",
    .is_protocol = true,
    .state_size = sizeof(SlowFile),
    .perm_prepare = slow_prepare,
    .perm_commit = slow_commit,
    .perm_abort = slow_abort,
};

static const BlockDriver pass_driver = {
    .name = "pass",
    .is_filter = true,
    .child_perm = filter_child_perm,
};

typedef struct Disk {
    Node *top, *file;
} Disk;

static Node *node_new(const BlockDriver *driver, const char *name)
{
    Node *n = node_alloc(driver, name);

    n->filename = g_strdup(name);
    node_register(n);
    return n;
}

static Disk coroutine_fn disk_new(const char *top, const char *file)
{
    Disk d = {.top = node_new(&pass_driver, top), .file = node_new(&slow_driver, file)};
    g_autoptr(Error) err = NULL;

    d.top->file =
        edge_attach(d.file, d.top, NULL, NULL, "file", EDGE_FILTERED, PERM_NONE, PERM_ALL, &err);
    g_assert_nonnull(d.top->file);
    node_unref(d.file); /* the edge has one */
    return d;
}

/* ---- users that come while others wait ---- */

typedef struct User {
    Node *node;
    unsigned perm;
    Edge *edge;
    Error *err;
    unsigned done; /* the how many-th that was; 0: not yet */
    CoGroup *group;
} User;

static unsigned n_done;

static void coroutine_fn attach(void *opaque)
{
    User *u = opaque;

    u->edge = edge_attach(u->node, NULL, &node_test_owner, NULL, "root", EDGE_ROOT, u->perm,
                          PERM_ALL, &u->err);
    u->done = ++n_done;
    co_group_done(u->group);
}

static void coroutine_fn user_start(User *u, CoGroup *group, Node *n, unsigned perm)
{
    *u = (User){.node = n, .perm = perm, .group = group};
    co_group_add(group, 1);
    co_start(attach, u);
}

static void coroutine_fn user_end(User *u)
{
    if (u->edge) {
        edge_detach(u->edge);
    }
    error_free(u->err);
}

static void coroutine_fn turns(void)
{
    co_sleep_ns(2000000);
}

static void coroutine_fn test_side_by_side(void)
{
    Disk a = disk_new("a", "fa"), b = disk_new("b", "fb");
    CoGroup group;
    User u[2];

    n_done = 0;
    co_group_init(&group);
    slow(a.file)->closed = slow(b.file)->closed = true;
    user_start(&u[0], &group, a.top, PERM_WRITE);
    user_start(&u[1], &group, b.top, PERM_WRITE);
    g_assert_cmpuint(slow(a.file)->inside + slow(b.file)->inside, ==, 2);
    slow(b.file)->closed = false;
    turns();
    g_assert_cmpuint(u[0].done, ==, 0);
    g_assert_cmpuint(u[1].done, ==, 1);
    g_assert_cmpuint(slow(b.file)->perm, ==, PERM_WRITE);
    slow(a.file)->closed = false;
    co_group_wait(&group);
    g_assert_cmpuint(slow(a.file)->perm, ==, PERM_WRITE);
    user_end(&u[0]);
    user_end(&u[1]);
    g_assert_cmpuint(slow(a.file)->perm, ==, PERM_NONE);
    co_group_destroy(&group);
    node_unref(a.top);
    node_unref(b.top);
    node_wait_all_closed();
}

/* Users of one disk, two of them by way of the filter; the first does not get what he wants. */
static void coroutine_fn test_one_after_another(void)
{
    Disk a = disk_new("a", "fa"), b = disk_new("b", "fb");
    CoGroup group;
    User u[4];

    n_done = 0;
    co_group_init(&group);
    slow(a.file)->closed = true;
    user_start(&u[0], &group, a.top, PERM_WRITE);
    user_start(&u[1], &group, a.file, PERM_RESIZE);
    user_start(&u[2], &group, a.top, PERM_CONSISTENT_READ);
    user_start(&u[3], &group, b.top, PERM_WRITE);
    turns();
    g_assert_cmpuint(u[3].done, ==, 1);
    g_assert_cmpuint(u[0].done + u[1].done + u[2].done, ==, 0);
    slow(a.file)->failures = 1;
    slow(a.file)->closed = false;
    co_group_wait(&group);
    g_assert_cmpuint(u[0].done, ==, 2);
    g_assert_cmpuint(u[1].done, ==, 3);
    g_assert_cmpuint(u[2].done, ==, 4);
    g_assert_cmpstr(u[0].err->message, ==, "no lock");
    g_assert_null(u[0].edge);
    g_assert_nonnull(u[2].edge);
    for (unsigned i = 0; i < 4; i++) {
        user_end(&u[i]);
    }
    g_assert_cmpuint(slow(a.file)->perm, ==, PERM_NONE);
    co_group_destroy(&group);
    node_unref(a.top);
    node_unref(b.top);
    node_wait_all_closed();
}

static bool all_begun;

static void coroutine_fn take_all(void *opaque)
{
    PermPlan *p = perm_plan_begin();

    all_begun = true;
    co_sleep_ns(4000000);
    perm_plan_end(p);
    co_group_done(opaque);
}

/* A plan that has all nodes waits for those before it, and those after it wait. */
static void coroutine_fn test_everything(void)
{
    Disk a = disk_new("a", "fa"), b = disk_new("b", "fb");
    CoGroup group;
    User u[2];

    n_done = 0;
    all_begun = false;
    co_group_init(&group);
    slow(a.file)->closed = true;
    user_start(&u[0], &group, a.top, PERM_WRITE);
    co_group_add(&group, 1);
    co_start(take_all, &group);
    user_start(&u[1], &group, b.top, PERM_WRITE);
    turns();
    g_assert_false(all_begun);
    g_assert_cmpuint(u[1].done, ==, 0);
    slow(a.file)->closed = false;
    while (!all_begun) {
        co_reschedule();
    }
    turns();
    g_assert_cmpuint(u[0].done, ==, 1);
    g_assert_cmpuint(u[1].done, ==, 0);
    co_group_wait(&group);
    g_assert_cmpuint(u[1].done, ==, 2);
    user_end(&u[0]);
    user_end(&u[1]);
    co_group_destroy(&group);
    node_unref(a.top);
    node_unref(b.top);
    node_wait_all_closed();
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/perm/side-by-side", test_side_by_side);
    node_test_add("/perm/one-after-another", test_one_after_another);
    node_test_add("/perm/everything", test_everything);
    ret = g_test_run();
    node_test_end();
    return ret;
}
