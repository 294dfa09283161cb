/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits on speed: how long requests wait, with a clock of the test's own.
 */
#include "block/throttle.h"
#include <glib.h>

#define MS INT64_C(1000000)

/* Accounts n requests of so many bytes, each as soon as the one before may begin; returns when the last one begins. */
static int64_t run(ThrottleGroup *g, bool is_write, unsigned n, uint64_t bytes, int64_t now)
{
    while (n-- > 0) {
        now += throttle_group_account(g, is_write, bytes, now);
    }
    return now;
}

static ThrottleGroup *group(ThrottleKind kind, uint64_t rate, uint64_t burst, uint64_t length)
{
    ThrottleGroup *g = throttle_group_new();
    g_autoptr(Error) err = NULL;
    ThrottleConfig c;

    throttle_config_init(&c);
    c.limit[kind].rate = rate;
    c.limit[kind].burst = burst;
    c.limit[kind].length = length;
    g_assert_true(throttle_config_check(&c, &err));
    throttle_group_set(g, &c);
    return g;
}

static void near(int64_t have, int64_t expected)
{
    g_assert_cmpint(have, >=, expected * 9 / 10);
    g_assert_cmpint(have, <=, expected * 11 / 10);
}

static void test_rate(void)
{
    ThrottleGroup *g = group(THROTTLE_IOPS_TOTAL, 100, 0, 1);

    near(run(g, false, 1000, 4096, 0), 10000 * MS);
    throttle_group_unref(g);
    g = group(THROTTLE_BPS_WRITE, 1000000, 0, 1);
    g_assert_cmpint(run(g, true, 1, 100000000, 0), ==,
                    0); /* large ones begin, and delay what comes next */
    near(run(g, true, 1, 1, 0), 100000 * MS);
    g_assert_cmpint(run(g, false, 1000, 1000000, 0), ==, 0); /* no limit on reading */
    throttle_group_unref(g);
}

static void test_burst(void)
{
    ThrottleGroup *g = group(THROTTLE_IOPS_READ, 100, 1000, 2);

    near(run(g, false, 2000, 1, 0), 1900 * MS);
    near(run(g, false, 1000, 1, 1900 * MS), 1900 * MS + 8000 * MS);
    near(run(g, false, 1900, 1, 100000 * MS) - 100000 * MS, 1800 * MS); /* it is full again */
    throttle_group_unref(g);
    g = group(THROTTLE_IOPS_READ, 100, 1000, 1); /* a short one may come at once */
    g_assert_cmpint(run(g, false, 1000, 1, 0), ==, 0);
    near(run(g, false, 1000, 1, 0), 10000 * MS);
    throttle_group_unref(g);
}

static void test_change(void)
{
    ThrottleGroup *g = group(THROTTLE_IOPS_TOTAL, 1, 0, 1);
    unsigned generation = throttle_group_generation(g);
    ThrottleConfig c;

    run(g, false, 10, 1, 0);
    g_assert_cmpint(throttle_group_account(g, false, 1, 9000 * MS), >, 0);
    throttle_config_init(&c);
    throttle_group_set(g, &c);
    g_assert_cmpint(throttle_group_account(g, false, 1, 9000 * MS), ==, 0);
    g_assert_cmpint(throttle_group_generation(g), !=, generation);
    throttle_group_unref(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/throttle/rate", test_rate);
    g_test_add_func("/throttle/burst", test_burst);
    g_test_add_func("/throttle/change", test_change);
    return g_test_run();
}
