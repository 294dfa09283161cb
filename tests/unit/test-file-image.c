/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hints to the file system when an image file is made: what the kernel is told, seen by a stand-in for ioctl(2); few file systems know either hint.
 */
#include "block/file.h"
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool known;            /* does the file system know them? */
static int flags;             /* of the file */
static struct fsxattr attr;   /* of the file */
static off_t size_when_asked; /* the largest */

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    struct stat st;
    va_list ap;
    void *p;

    va_start(ap, request);
    p = va_arg(ap, void *);
    va_end(ap);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    size_when_asked = MAX(size_when_asked, st.st_size);
    if (!known) {
        errno = ENOTTY;
        return -1;
    }
    switch (request) {
    case FS_IOC_GETFLAGS:
        *(int *)p = flags;
        return 0;
    case FS_IOC_SETFLAGS:
        flags = *(int *)p;
        return 0;
    case FS_IOC_FSGETXATTR:
        *(struct fsxattr *)p = attr;
        return 0;
    case FS_IOC_FSSETXATTR:
        attr = *(struct fsxattr *)p;
        return 0;
    }
    g_assert_not_reached();
}

static void make(const FileNew *how)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("cutpoint-XXXXXX", &path, NULL);
    g_autoptr(Error) err = NULL;
    struct stat st;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 5000), ==, 0);
    close(fd);
    flags = FS_NOATIME_FL;
    attr = (struct fsxattr){.fsx_xflags = FS_XFLAG_NODUMP};
    size_when_asked = 0;
    g_assert_true(file_image_create(path, 1 << 20, how, &err));
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 1 << 20);
    g_assert_cmpint(size_when_asked, ==, 0); /* file systems refuse them later */
    g_unlink(path);
}

static void test_known(void)
{
    known = true;
    make(&(FileNew){.nocow = true});
    g_assert_cmpint(flags, ==, FS_NOATIME_FL | FS_NOCOW_FL);
    g_assert_cmpint(attr.fsx_xflags, ==, FS_XFLAG_NODUMP);
    make(&(FileNew){.extent_size_hint = 65536});
    g_assert_cmpint(flags, ==, FS_NOATIME_FL);
    g_assert_cmpint(attr.fsx_xflags, ==, FS_XFLAG_NODUMP | FS_XFLAG_EXTSIZE);
    g_assert_cmpint(attr.fsx_extsize, ==, 65536);
    make(&(FileNew){.space = FILE_SPACE_RESERVED});
    g_assert_cmpint(flags, ==, FS_NOATIME_FL);
    g_assert_cmpint(attr.fsx_xflags, ==, FS_XFLAG_NODUMP);
}

static void test_unknown(void)
{
    known = false;
    make(&(FileNew){.nocow = true, .extent_size_hint = 65536});
    make(&(FileNew){.space = FILE_SPACE_FULL, .nocow = true, .extent_size_hint = 1});
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/file-image/hints/known", test_known);
    g_test_add_func("/file-image/hints/unknown", test_unknown);
    return g_test_run();
}
