/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Errors: what the functions put into them, and who owns what.
 */
#include "util/error.h"
#include <errno.h>
#include <string.h>

static void test_set(void)
{
    g_autoptr(Error) err = NULL;

    error_set(&err, ERROR_BUSY, "disk0", "open", "Node '%s' is busy: %d", "disk0", 7);
    g_assert_cmpint(err->cls, ==, ERROR_CLASS_GENERIC_ERROR);
    g_assert_cmpint(err->kind, ==, ERROR_BUSY);
    g_assert_cmpint(err->err, ==, 0);
    g_assert_cmpstr(err->subject, ==, "disk0");
    g_assert_cmpstr(err->operation, ==, "open");
    g_assert_cmpstr(err->message, ==, "Node 'disk0' is busy: 7");
    g_assert_null(err->hint);
    g_assert_cmpint(error_to_errno(err), ==, -EBUSY);
}

static void test_no_subject(void)
{
    g_autoptr(Error) err = NULL;

    error_set(&err, ERROR_INVALID, NULL, NULL, "100%%");
    g_assert_null(err->subject);
    g_assert_null(err->operation);
    g_assert_cmpstr(err->message, ==, "100%");
}

static void test_errno(void)
{
    g_autoptr(Error) err = NULL;

    error_set_errno(&err, ENOSPC, "f", "create", "Could not create '%s'", "f");
    g_assert_cmpstr(err->message, ==, "Could not create 'f': No space left on device");
    g_assert_cmpint(err->err, ==, ENOSPC);
    g_assert_cmpint(err->kind, ==, ERROR_NO_SPACE);
    g_assert_cmpint(error_to_errno(err), ==, -ENOSPC);
}

static void test_class(void)
{
    g_autoptr(Error) err = NULL;

    error_set_class(&err, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_NOT_FOUND, "x", NULL,
                    "The command %s has not been found", "x");
    g_assert_cmpint(err->cls, ==, ERROR_CLASS_COMMAND_NOT_FOUND);
    g_assert_cmpstr(error_class_name(err->cls), ==, "CommandNotFound");
    g_assert_cmpstr(error_class_name(ERROR_CLASS_GENERIC_ERROR), ==, "GenericError");
    g_assert_cmpstr(error_class_name(ERROR_CLASS_DEVICE_NOT_ACTIVE), ==, "DeviceNotActive");
    g_assert_cmpstr(error_class_name(ERROR_CLASS_DEVICE_NOT_FOUND), ==, "DeviceNotFound");
    g_assert_cmpstr(error_class_name(ERROR_CLASS_KVM_MISSING_CAP), ==, "KVMMissingCap");
}

static void test_prefix_hint(void)
{
    g_autoptr(Error) err = NULL;

    error_set(&err, ERROR_IO, NULL, NULL, "inner %%s");
    error_prefix(&err, "outer %d: ", 1);
    g_assert_cmpstr(err->message, ==, "outer 1: inner %s");
    error_hint(&err, "try %s", "this");
    error_hint(&err, "try %s", "that");
    g_assert_cmpstr(err->hint, ==, "try that");
}

static void test_move_copy(void)
{
    g_autoptr(Error) a = NULL, b = NULL, c = NULL;

    error_move(&a, &b);
    g_assert_null(a);
    error_set(&b, ERROR_LIMIT, "s", "o", "m");
    error_hint(&b, "h");
    error_move(&a, &b);
    g_assert_null(b);
    c = error_copy(a);
    g_assert_cmpstr(c->subject, ==, "s");
    g_assert_cmpstr(c->operation, ==, "o");
    g_assert_cmpstr(c->message, ==, "m");
    g_assert_cmpstr(c->hint, ==, "h");
    g_assert_true(c->message != a->message);
    g_assert_cmpint(c->kind, ==, ERROR_LIMIT);
    error_free(NULL);
}

/* Every kind has an errno that leads back to a kind of the same meaning. */
static void test_kinds(void)
{
    for (int kind = ERROR_INVALID; kind <= ERROR_CANCELLED; kind++) {
        g_autoptr(Error) err = NULL;

        error_set(&err, kind, NULL, NULL, "x");
        g_assert_cmpint(error_to_errno(err), <, 0);
        if (kind != ERROR_CORRUPT) {
            g_assert_cmpint(error_kind_of_errno(-error_to_errno(err)), ==, kind);
        }
    }
    g_assert_cmpint(error_kind_of_errno(EACCES), ==, ERROR_PERMISSION);
    g_assert_cmpint(error_kind_of_errno(EIO), ==, ERROR_IO);
    g_assert_cmpint(error_kind_of_errno(12345), ==, ERROR_IO);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/error/set", test_set);
    g_test_add_func("/error/no-subject", test_no_subject);
    g_test_add_func("/error/errno", test_errno);
    g_test_add_func("/error/class", test_class);
    g_test_add_func("/error/prefix-and-hint", test_prefix_hint);
    g_test_add_func("/error/move-and-copy", test_move_copy);
    g_test_add_func("/error/kinds", test_kinds);
    return g_test_run();
}
