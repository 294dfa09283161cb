/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `file` leaves no gap in its locks: while the node's descriptor is exchanged again and again, another process (this program
 * with --watch) tries to get the image for writing the whole time.
 */
#include "node-test.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW         (PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE)
#define SHARE_READ (PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED)

static const char *image;

static void make_file(const char *path, off_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
}

static Node *coroutine_fn open_image(const char *more)
{
    return node_test_open("{'driver': 'file', 'node-name': 'f', 'filename': '%s'%s}", image, more);
}

static void coroutine_fn done(Node *n, Edge *e)
{
    edge_detach(e);
    node_unref(n);
    node_wait_all_closed();
}

/* Exit status: 0 never got it, 1 got it. */
static int watch(const char *file)
{
    int fd = open(file, O_RDWR | O_CLOEXEC);
    long rounds = 0;
    char c;

    if (fd < 0 || fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK) < 0) {
        return 2;
    }
    puts("watching");
    fflush(stdout);
    do {
        struct flock used = {.l_type = F_RDLCK, .l_start = 101, .l_len = 1};
        struct flock unshared = {.l_type = F_WRLCK, .l_start = 201, .l_len = 1};

        if (fcntl(fd, F_OFD_SETLK, &used) < 0 || fcntl(fd, F_OFD_GETLK, &unshared) < 0) {
            return 2;
        }
        if (unshared.l_type == F_UNLCK) {
            return 1;
        }
        used.l_type = F_UNLCK;
        fcntl(fd, F_OFD_SETLK, &used);
        rounds++;
    } while (read(STDIN_FILENO, &c, 1) < 0);
    return rounds > 100 ? 0 : 3;
}

typedef struct Reader {
    Edge *edge;
    _Atomic bool stop;
    _Atomic unsigned reads;
    CoGroup group;
} Reader;

static void coroutine_fn read_on(void *opaque)
{
    Reader *rd = opaque;
    uint8_t buf[4096];

    while (!atomic_load(&rd->stop)) {
        Request r;

        request_begin(&r, REQUEST_READ);
        g_assert_cmpint(edge_pread(rd->edge, &r, guest(0), buf, sizeof(buf), 0), ==, 0);
        g_assert_cmpint(buf[4095], ==, 'x');
        request_end(&r);
        atomic_fetch_add(&rd->reads, 1);
    }
    co_group_done(&rd->group);
}

static void coroutine_fn test_no_gap(void)
{
    const char *const argv[] = {"/proc/self/exe", "--watch", image, NULL};
    g_autoptr(Error) err = NULL;
    Reader readers[4] = {0};
    IOThread *t;
    char line[16];
    int in, out, wstatus;
    GPid pid;
    Node *n;
    Edge *e, *w;

    make_file(image, 65536);
    n = open_image(", 'auto-read-only': true");
    e = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL);
    w = node_test_attach(n, RW, SHARE_READ);
    g_assert_cmpint(test_fill(w, 0, 'x', 65536), ==, 0);
    t = iothread_new("readers", &err);
    for (unsigned i = 0; i < G_N_ELEMENTS(readers); i++) {
        readers[i].edge = e;
        co_group_init(&readers[i].group);
        co_group_add(&readers[i].group, 1);
        co_spawn(iothread_loop(t), read_on, &readers[i]);
    }
    g_assert_true(g_spawn_async_with_pipes(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                                           NULL, NULL, &pid, &in, &out, NULL, NULL));
    g_assert_cmpint(read(out, line, sizeof(line)), ==, 9);
    for (unsigned i = 0; i < 200; i++) {
        g_assert_true(node_ro_prepare(n, &err));
        node_ro_commit(n); /* an old node after its cut */
        g_assert_true(edge_set_perm(w, PERM_CONSISTENT_READ, PERM_ALL & ~PERM_WRITE, &err));
        atomic_store(&n->read_only, false);
        g_assert_true(edge_set_perm(w, RW, SHARE_READ, &err)); /* the first writer */
        g_assert_cmpint(test_fill(w, 8192, 'y', 512), ==, 0);
        g_assert_true(
            edge_set_perm(w, PERM_CONSISTENT_READ, SHARE_READ, &err)); /* the last has gone */
        g_assert_true(edge_set_perm(w, RW, SHARE_READ, &err));
    }
    close(in);
    g_assert_cmpint(waitpid(pid, &wstatus, 0), ==, pid);
    close(out);
    g_assert_true(WIFEXITED(wstatus));
    g_assert_cmpint(WEXITSTATUS(wstatus), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(readers); i++) {
        atomic_store(&readers[i].stop, true);
        co_group_wait(&readers[i].group);
        co_group_destroy(&readers[i].group);
        g_assert_cmpint(atomic_load(&readers[i].reads), >, 10);
    }
    iothread_free(t);
    edge_detach(w);
    done(n, e);
}

int main(int argc, char **argv)
{
    int ret;

    if (argc == 3 && strcmp(argv[1], "--watch") == 0) {
        return watch(argv[2]);
    }
    node_test_init();
    g_test_init(&argc, &argv, NULL);
    image = node_test_file("image");
    node_test_add("/file/no-gap", test_no_gap);
    ret = g_test_run();
    node_test_end();
    return ret;
}
