/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files that snapshots make: what each kind of thing under the name leads to, that undo leaves no
 * trace (T3), and that nothing of anybody else is touched.
 */
#include "block/file.h"
#include "block/protocol/file-create-internal.h"
#include "block/protocol/file-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *dir, *path;

/* ---- looking at the directory ---- */

static gint by_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All there is: names, kinds, inodes, sizes, contents. */
static char *snapshot_of_dir(void)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *full = g_build_filename(dir, name, NULL), *data = NULL;
        struct stat st;

        g_assert_cmpint(lstat(full, &st), ==, 0);
        if (S_ISREG(st.st_mode)) {
            g_assert_true(g_file_get_contents(full, &data, NULL, NULL));
        }
        g_ptr_array_add(lines, g_strdup_printf("%s %o %lu %ld '%s'\n", name, st.st_mode, st.st_ino,
                                               (long)st.st_size, data ? data : ""));
    }
    g_dir_close(d);
    g_ptr_array_sort(lines, by_text);
    g_ptr_array_add(lines, NULL);
    return g_strjoinv("", (char **)lines->pdata);
}

static guint names_in_dir(void)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    guint n = 0;

    while (g_dir_read_name(d)) {
        n++;
    }
    g_dir_close(d);
    return n;
}

static int open_descriptors(void)
{
    GDir *d = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(d)) {
        n++;
    }
    g_dir_close(d);
    return n;
}

static void put(const char *file, const char *data)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, data, strlen(data)), ==, strlen(data));
    close(fd);
}

static void expect_content(const char *file, const char *data)
{
    g_autofree char *have = NULL;

    g_assert_true(g_file_get_contents(file, &have, NULL, NULL));
    g_assert_cmpstr(have, ==, data);
}

/* As the caller's node would. */
static void fill(const char *file, const char *data)
{
    FileLocks locks = {PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE, PERM_WRITE | PERM_RESIZE};
    int fd = open(file, O_RDWR | O_CLOEXEC);
    g_autoptr(Error) err = NULL;

    g_assert_cmpint(fd, >=, 0);
    g_assert_true(file_lock_take(fd, file, locks, &err));
    g_assert_true(file_lock_check(fd, file, locks, &err));
    g_assert_cmpint(write(fd, data, strlen(data)), ==, strlen(data));
    close(fd);
}

static SnapshotFile *prepared(const char *file)
{
    SnapshotFile *f = snapshot_file_new(file);
    g_autoptr(Error) err = NULL;

    g_assert_true(snapshot_file_prepare(f, &err));
    g_assert_null(err);
    return f;
}

static void finish(SnapshotFile *f)
{
    g_autoptr(Error) err = NULL;

    g_assert_true(snapshot_file_finish(f, &err));
    g_assert_null(err);
}

/* prepare fails with this text, and nothing has changed. */
static void expect_refused(const char *file, const char *fmt)
{
    g_autofree char *before = snapshot_of_dir(), *after = NULL, *text = NULL;
    SnapshotFile *f = snapshot_file_new(file);
    g_autoptr(Error) err = NULL;
    int descriptors = open_descriptors();
    char **parts = g_strsplit(fmt, "@", 2);

    text = g_strjoinv(file, parts);
    g_strfreev(parts);
    g_assert_false(snapshot_file_prepare(f, &err));
    g_assert_cmpstr(err->message, ==, text);
    g_assert_cmpint(open_descriptors(), ==, descriptors);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    after = snapshot_of_dir();
    g_assert_cmpstr(before, ==, after);
}

static void clean(void)
{
    char *argv[] = {(char *)"rm", (char *)"-rf", dir, NULL};

    g_assert_true(
        g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL));
    g_assert_cmpint(g_mkdir(dir, 0755), ==, 0);
}

/* ---- the three ways, to both ends ---- */

static void test_new(void)
{
    int descriptors = open_descriptors();
    mode_t mask = umask(027);
    SnapshotFile *f = prepared(path);
    struct stat st;

    umask(mask);
    g_assert_false(snapshot_file_replaces(f));
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode, ==, S_IFREG | 0640);
    fill(path, "image");
    finish(f);
    snapshot_file_commit(f);
    snapshot_file_undo(f); /* too late */
    snapshot_file_free(f);
    expect_content(path, "image");
    g_assert_cmpint(names_in_dir(), ==, 1);
    g_assert_cmpint(open_descriptors(), ==, descriptors);
    clean();
}

static void undo_and_compare(const char *file, bool finished)
{
    g_autofree char *before = snapshot_of_dir(), *after = NULL;
    int descriptors = open_descriptors();
    SnapshotFile *f = prepared(file);

    fill(file, "a new image, longer than what was there");
    if (finished) {
        finish(f);
    }
    snapshot_file_undo(f);
    snapshot_file_undo(f);
    snapshot_file_commit(f);
    snapshot_file_free(f);
    after = snapshot_of_dir();
    g_assert_cmpstr(before, ==, after);
    g_assert_cmpint(open_descriptors(), ==, descriptors);
}

static void test_undo(void)
{
    for (int finished = 0; finished < 2; finished++) {
        undo_and_compare(path, finished);
        put(path, "");
        undo_and_compare(path, finished);
        put(path, "precious data");
        undo_and_compare(path, finished);
        clean();
    }
}

static void test_fill_empty(void)
{
    struct stat before, after;
    SnapshotFile *f;

    put(path, "");
    g_assert_cmpint(chmod(path, 0600), ==, 0);
    g_assert_cmpint(stat(path, &before), ==, 0);
    f = prepared(path);
    g_assert_false(snapshot_file_replaces(f));
    fill(path, "image");
    finish(f);
    snapshot_file_commit(f);
    snapshot_file_free(f);
    g_assert_cmpint(stat(path, &after), ==, 0);
    g_assert_cmpint(before.st_ino, ==, after.st_ino);
    g_assert_cmpint(after.st_mode, ==, S_IFREG | 0600);
    expect_content(path, "image");
    g_assert_cmpint(names_in_dir(), ==, 1);
    clean();
}

static char *find_aside(void)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;
    char *found = NULL;

    while ((name = g_dir_read_name(d))) {
        if (strstr(name, ".cutpoint-")) {
            g_assert_null(found);
            g_assert_true(g_str_has_prefix(name, "overlay.qcow2.cutpoint-"));
            g_assert_true(g_str_has_suffix(name, ".old"));
            found = g_build_filename(dir, name, NULL);
        }
    }
    g_dir_close(d);
    return found;
}

static bool can_lock(const char *file)
{
    int fd = open(file, O_RDWR | O_CLOEXEC);
    g_autoptr(Error) err = NULL;
    bool ok = file_lock_check(fd, file, (FileLocks){PERM_WRITE, PERM_WRITE}, &err);

    close(fd);
    return ok;
}

static void test_replace(void)
{
    g_autofree char *aside = NULL;
    SnapshotFile *f;
    struct stat st;

    put(path, "precious data");
    g_assert_cmpint(chmod(path, 0604), ==, 0);
    f = prepared(path);
    g_assert_true(snapshot_file_replaces(f));
    aside = find_aside();
    g_assert_nonnull(aside);
    expect_content(aside, "precious data");
    expect_content(path, "");
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode, ==, S_IFREG | 0604);
    g_assert_true(can_lock(path));
    g_assert_false(can_lock(aside)); /* nobody starts to use what may come back */
    fill(path, "image");
    finish(f);
    expect_content(aside, "precious data");
    snapshot_file_commit(f);
    g_assert_false(snapshot_file_replaces(f));
    snapshot_file_free(f);
    expect_content(path, "image");
    g_assert_cmpint(names_in_dir(), ==, 1);
    clean();
}

static void test_replace_long_name(void)
{
    g_autofree char *name = g_strnfill(255, 'n'), *file = g_build_filename(dir, name, NULL);

    put(file, "precious data");
    undo_and_compare(file, true);
    clean();
}

static void test_symlinks(void)
{
    g_autofree char *sub = g_build_filename(dir, "sub", NULL);
    g_autofree char *target = g_build_filename(sub, "target", NULL);
    g_autofree char *second = g_build_filename(dir, "second", NULL);
    SnapshotFile *f;

    g_assert_cmpint(g_mkdir(sub, 0755), ==, 0);
    g_assert_cmpint(symlink("sub/target", second), ==, 0);
    g_assert_cmpint(symlink(second, path), ==, 0);
    f = prepared(path); /* links that lead nowhere yet */
    g_assert_true(g_file_test(target, G_FILE_TEST_IS_REGULAR));
    snapshot_file_undo(f);
    snapshot_file_free(f);
    g_assert_false(g_file_test(target, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(path, G_FILE_TEST_IS_SYMLINK));

    put(target, "precious data");
    f = prepared(path);
    expect_content(path, "");
    g_assert_true(g_file_test(path, G_FILE_TEST_IS_SYMLINK));
    fill(path, "image");
    finish(f);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    expect_content(target, "precious data");
    expect_content(path, "precious data");
    clean();
}

/* ---- with an image ---- */

static SnapshotFile *with_image(const char *file, uint64_t size, bool ok)
{
    SnapshotFile *f = snapshot_file_new(file);
    g_auto(NewImage) image = {0};
    g_autoptr(Error) err = NULL;

    new_image_init(&image);
    image.size = size;
    new_image_add(&image, 4, g_strdup("data"), 4);
    new_image_add(&image, 0, g_strdup("head"), 4);
    snapshot_file_set_image(f, &image);
    g_assert_cmpint(snapshot_file_prepare(f, &err), ==, ok);
    if (!ok) {
        g_assert_cmpstr(err->message, ==, "Could not write the new image: File too large");
    }
    return f;
}

static void test_image(void)
{
    static const char *const before[] = {NULL, "", "precious data"};

    for (unsigned i = 0; i < G_N_ELEMENTS(before); i++) {
        g_autofree char *was = NULL, *now = NULL;
        FileLocks all = {PERM_ALL, PERM_ALL};
        SnapshotFile *f;
        int fd;

        if (before[i]) {
            put(path, before[i]);
        }
        was = snapshot_of_dir();
        f = with_image(path, 10, true);
        expect_content(path, "headdata");
        fd = open(path, O_RDWR | O_CLOEXEC);
        g_assert_true(file_lock_check(fd, path, all, &(Error *){NULL})); /* nobody's any more */
        g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, 10);
        close(fd);
        finish(f);
        snapshot_file_undo(f);
        snapshot_file_free(f);
        now = snapshot_of_dir();
        g_assert_cmpstr(was, ==, now);
        g_clear_pointer(&now, g_free);

        /* What cannot be written leaves nothing. */
        f = with_image(path, UINT64_MAX, false);
        now = snapshot_of_dir();
        g_assert_cmpstr(was, ==, now);
        snapshot_file_free(f);
        clean();
    }
}

/* ---- syncs of a directory that several ask for ---- */

static pthread_mutex_t sync_lock = PTHREAD_MUTEX_INITIALIZER; /* which sanitizers know */
static pthread_cond_t sync_changed = PTHREAD_COND_INITIALIZER;
static bool sync_slow;        /* syncs wait until they may go on */
static unsigned sync_begun;   /* of directories */
static unsigned sync_may;     /* so many may end */
static unsigned sync_failing; /* the how many-th fails; 0: none */

int __real_fsync(int fd);
int __wrap_fsync(int fd);

int __wrap_fsync(int fd)
{
    struct stat st;
    unsigned number;

    if (!sync_slow || fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode)) {
        return __real_fsync(fd);
    }
    pthread_mutex_lock(&sync_lock);
    number = ++sync_begun;
    pthread_cond_broadcast(&sync_changed);
    while (sync_may < number) {
        pthread_cond_wait(&sync_changed, &sync_lock);
    }
    pthread_mutex_unlock(&sync_lock);
    if (number == sync_failing) {
        errno = EIO;
        return -1;
    }
    return __real_fsync(fd);
}

static void allow_syncs(unsigned begun, unsigned may)
{
    pthread_mutex_lock(&sync_lock);
    while (sync_begun < begun) {
        pthread_cond_wait(&sync_changed, &sync_lock);
    }
    sync_may = may;
    pthread_cond_broadcast(&sync_changed);
    pthread_mutex_unlock(&sync_lock);
}

static unsigned syncs_begun(void)
{
    unsigned n;

    pthread_mutex_lock(&sync_lock);
    n = sync_begun;
    pthread_mutex_unlock(&sync_lock);
    return n;
}

static gpointer ask_for_sync(gpointer unused)
{
    g_autoptr(Error) err = NULL;

    (void)unused;
    return GINT_TO_POINTER(file_sync_parent_dir(path, &err));
}

static void test_shared_sync(void)
{
    GThread *first, *others[8];

    for (unsigned fails = 0; fails <= 2; fails++) {
        sync_slow = true;
        sync_begun = sync_may = 0;
        sync_failing = fails;
        first = g_thread_new("first", ask_for_sync, NULL);
        allow_syncs(1, 0);
        /* Too late for the one that has begun. */
        for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
            others[i] = g_thread_new("other", ask_for_sync, NULL);
        }
        g_usleep(50000);
        g_assert_cmpuint(syncs_begun(), ==, 1);
        allow_syncs(1, 1);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(first)), ==, fails != 1);
        allow_syncs(2, 99);
        for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
            g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(others[i])), ==, fails != 2);
        }
        g_assert_cmpuint(syncs_begun(), ==, 2);
        sync_slow = false;
    }
}

static void test_relative(void)
{
    g_autofree char *cwd = g_get_current_dir();
    SnapshotFile *f;

    g_assert_cmpint(chdir(dir), ==, 0);
    f = prepared("overlay.qcow2");
    g_assert_cmpint(chdir("/"), ==, 0);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    snapshot_file_undo(f); /* finds it from anywhere */
    snapshot_file_free(f);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_cmpint(chdir(cwd), ==, 0);
    clean();
}

/* ---- refusals ---- */

static void test_refused(void)
{
    g_autofree char *slash = g_strconcat(path, "/", NULL);
    g_autofree char *below = g_build_filename(path, "x", NULL);
    g_autofree char *name = g_strnfill(256, 'n'), *too_long = g_build_filename(dir, name, NULL);

    expect_refused("", "Could not create '@': No such file or directory");
    expect_refused("/", "Could not create '@': Is a directory");
    expect_refused(dir, "Could not create '@': Is a directory");
    expect_refused(slash, "Could not create '@': Is a directory");
    expect_refused(below, "Could not create '@': No such file or directory");
    expect_refused(too_long, "Could not create '@': File name too long");
    expect_refused("/proc/nothing", "Could not create '@': No such file or directory");
    put(path, "");
    expect_refused(below, "Could not create '@': Not a directory");
    g_unlink(path);
    g_assert_cmpint(symlink(path, path), ==, 0);
    expect_refused(path, "Could not create '@': Too many levels of symbolic links");
    g_unlink(path);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    expect_refused(path, "Could not create '@': it exists and is not a regular file");
    expect_refused("/dev/null", "Could not create '@': it exists and is not a regular file");
    clean();
}

static void test_locked(void)
{
    static const char *const contents[] = {"", "precious data"};

    for (unsigned i = 0; i < G_N_ELEMENTS(contents); i++) {
        int fd;

        put(path, contents[i]);
        fd = open(path, O_RDWR | O_CLOEXEC);
        g_assert_true(file_lock_take(fd, path, (FileLocks){0, PERM_WRITE}, &(Error *){NULL}));
        expect_refused(path, "Failed to get \"write\" lock");
        file_lock_drop(fd, path, (FileLocks){0, PERM_WRITE});
        g_assert_true(file_lock_take(fd, path, (FileLocks){PERM_RESIZE, 0}, &(Error *){NULL}));
        expect_refused(path, "Failed to get shared \"resize\" lock");
        close(fd);
        undo_and_compare(path, true);
    }
    clean();
}

/* Runs fn in a process of its own, which may give up rights. */
static void in_child(void (*fn)(void))
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        fn();
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void become_nobody(void)
{
    if (geteuid() == 0) {
        g_assert_cmpint(setresgid(65534, 65534, 65534), ==, 0);
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
}

static void without_rights(void)
{
    become_nobody();
    expect_refused(path, "Could not create '@': Permission denied");
}

static void cannot_put_beside(void)
{
    become_nobody();
    expect_refused(path, "Could not create '@': the file is not empty, and no new one can be put "
                         "beside it: Permission denied");
}

static void test_permissions(void)
{
    chmod(dir, 0555);
    in_child(without_rights); /* no right to create */
    chmod(dir, 0755);
    put(path, "precious data");
    chmod(path, 0444);
    chmod(dir, 0555);
    in_child(without_rights); /* no right to write */
    chmod(path, 0666);
    in_child(cannot_put_beside);
    chmod(dir, 0755);
    clean();
}

/* Makes a system call fail from now on. */
static void forbid(int nr, int err)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = G_N_ELEMENTS(filter), .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), ==, 0);
}

static void without_exchange(void)
{
    forbid(SYS_renameat2, EINVAL);
    expect_refused(path, "Could not create '@': the file is not empty, and its file system cannot "
                         "set it aside");
}

static void exchange_fails(void)
{
    forbid(SYS_renameat2, EIO);
    expect_refused(path, "Could not create '@': Input/output error");
}

static void sync_fails(void)
{
    g_autofree char *before = snapshot_of_dir(), *after = NULL, *text = NULL;
    SnapshotFile *f = prepared(path);
    g_autoptr(Error) err = NULL;

    forbid(SYS_fsync, EIO);
    g_assert_false(snapshot_file_finish(f, &err));
    text = g_strdup_printf("Could not sync '%s': Input/output error", path);
    g_assert_cmpstr(err->message, ==, text);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    after = snapshot_of_dir();
    g_assert_cmpstr(before, ==, after);
}

static void test_failures(void)
{
    in_child(sync_fails);
    put(path, "precious data");
    in_child(without_exchange);
    in_child(exchange_fails);
    in_child(sync_fails);
    clean();
}

/* ---- others at work ---- */

/* A file that will be lent is locked from before it is written until the taker gives up; another one is not. */
static void test_lent(void)
{
    const FileLocks reader = {PERM_CONSISTENT_READ, PERM_WRITE};
    g_auto(NewImage) image = {0};
    int fds = open_descriptors();

    new_image_init(&image);
    image.size = 4096;
    new_image_add(&image, 0, g_strdup("image"), 5);
    for (int lend = 0; lend < 2; lend++) {
        g_autoptr(SnapshotFile) f = snapshot_file_new(path);
        g_autoptr(Error) err = NULL, busy = NULL;
        FileLent lent;
        int fd;

        snapshot_file_set_image(f, &image);
        if (lend) {
            snapshot_file_set_lend(f);
        }
        g_assert_true(snapshot_file_prepare(f, &err));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(file_lock_check(fd, path, reader, &busy), ==, !lend);
        g_assert_cmpint(snapshot_file_lend(f, &lent), ==, lend);
        if (lend) {
            g_assert_cmpuint(lent.size, ==, 4096);
            g_assert_true(lent.locking);
            g_assert_false(snapshot_file_lend(f, &lent)); /* once */
            file_lock_drop(lent.fd, path, lent.locks);
            close(lent.fd);
            error_free(g_steal_pointer(&busy));
            g_assert_true(file_lock_check(fd, path, reader, &busy));
        }
        close(fd);
        snapshot_file_undo(f);
        g_assert_cmpuint(names_in_dir(), ==, 0);
    }
    g_assert_cmpint(open_descriptors(), ==, fds);
}

static void test_replaced_by_another(void)
{
    g_autofree char *other = g_build_filename(dir, "other", NULL), *aside = NULL;
    SnapshotFile *f = prepared(path);

    put(other, "another's");
    g_assert_cmpint(rename(other, path), ==, 0);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    expect_content(path, "another's");

    f = prepared(path); /* sets "another's" aside */
    put(other, "a third one's");
    g_assert_cmpint(rename(other, path), ==, 0);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    expect_content(path, "a third one's");
    aside = find_aside();
    expect_content(aside, "another's");
    clean();
}

static void test_removed_by_another(void)
{
    SnapshotFile *f = prepared(path);

    g_unlink(path);
    snapshot_file_undo(f);
    snapshot_file_free(f);
    g_assert_cmpint(names_in_dir(), ==, 0);

    put(path, "precious data");
    f = prepared(path);
    g_unlink(path);
    snapshot_file_undo(f); /* finds the name free, and puts the data back */
    snapshot_file_free(f);
    expect_content(path, "precious data");
    g_assert_cmpint(names_in_dir(), ==, 1);
    clean();
}

static void test_aside_gone(void)
{
    g_autofree char *aside = NULL;
    SnapshotFile *f;

    put(path, "precious data");
    f = prepared(path);
    aside = find_aside();
    g_unlink(aside);
    put(aside, "not ours");
    snapshot_file_commit(f);
    snapshot_file_free(f);
    expect_content(aside, "not ours");
    clean();
}

static void test_filled_in_use(void)
{
    SnapshotFile *f;
    int fd;

    put(path, "");
    f = prepared(path);
    fill(path, "another's");
    fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_true(file_lock_take(fd, path, (FileLocks){0, PERM_WRITE}, &(Error *){NULL}));
    snapshot_file_undo(f);
    snapshot_file_free(f);
    close(fd);
    expect_content(path, "another's");
    clean();
}

static void test_sync_parent_dir(void)
{
    g_autofree char *missing = g_build_filename(dir, "none", "x", NULL), *text = NULL;
    g_autoptr(Error) err = NULL;

    g_assert_true(file_sync_parent_dir(path, &err));
    g_assert_true(file_sync_parent_dir("x", &err));
    g_assert_false(file_sync_parent_dir(missing, &err));
    text =
        g_strdup_printf("Could not sync the directory of '%s': No such file or directory", missing);
    g_assert_cmpstr(err->message, ==, text);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-file-create-XXXXXX", NULL);
    g_assert_cmpint(chmod(dir, 0755), ==, 0);
    path = g_build_filename(dir, "overlay.qcow2", NULL);
    g_test_add_func("/file-create/new", test_new);
    g_test_add_func("/file-create/undo", test_undo);
    g_test_add_func("/file-create/fill-empty", test_fill_empty);
    g_test_add_func("/file-create/replace", test_replace);
    g_test_add_func("/file-create/replace-long-name", test_replace_long_name);
    g_test_add_func("/file-create/symlinks", test_symlinks);
    g_test_add_func("/file-create/relative", test_relative);
    g_test_add_func("/file-create/image", test_image);
    g_test_add_func("/file-create/shared-sync", test_shared_sync);
    g_test_add_func("/file-create/refused", test_refused);
    g_test_add_func("/file-create/locked", test_locked);
    g_test_add_func("/file-create/permissions", test_permissions);
    g_test_add_func("/file-create/failures", test_failures);
    g_test_add_func("/file-create/lent", test_lent);
    g_test_add_func("/file-create/replaced-by-another", test_replaced_by_another);
    g_test_add_func("/file-create/removed-by-another", test_removed_by_another);
    g_test_add_func("/file-create/aside-gone", test_aside_gone);
    g_test_add_func("/file-create/filled-in-use", test_filled_in_use);
    g_test_add_func("/file-create/sync-parent-dir", test_sync_parent_dir);
    ret = g_test_run();
    clean();
    g_rmdir(dir);
    g_free(dir);
    g_free(path);
    return ret;
}
