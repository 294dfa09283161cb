/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits and statistics of drives: options of -drive, and the command block_set_io_throttle.
 */
#include "block/backend-limits.h"
#include "drive-options.h"
#include "emulator.h"
#include "qapi-commands.h"
#include <string.h>

static const struct {
    const char *alias, *name; /* as an option of -drive */
} options[THROTTLE_KINDS] = {
    [THROTTLE_IOPS_TOTAL] = {"iops", "iops-total"},
    [THROTTLE_IOPS_READ] = {"iops_rd", "iops-read"},
    [THROTTLE_IOPS_WRITE] = {"iops_wr", "iops-write"},
    [THROTTLE_BPS_TOTAL] = {"bps", "bps-total"},
    [THROTTLE_BPS_READ] = {"bps_rd", "bps-read"},
    [THROTTLE_BPS_WRITE] = {"bps_wr", "bps-write"},
};

/* alias: NULL if there is none. */
static bool take(struct json_object *o, const char *alias, const char *name, uint64_t *ret,
                 Error **errp)
{
    g_autofree char *value = NULL;
    int64_t v;

    if (alias && !drive_take_alias(o, alias, name, errp)) {
        return false;
    }
    value = legacy_opts_take(o, name);
    if (!value) {
        return true;
    }
    if (!g_ascii_string_to_signed(value, 10, G_MININT64, G_MAXINT64, &v, NULL)) {
        error_set(errp, ERROR_INVALID, name, "drive", "Parameter '%s' expects a number", name);
        return false;
    }
    *ret = v; /* what is negative is too large */
    return true;
}

bool drive_take_limits(struct json_object *o, ThrottleConfig *ret, char **ret_group, Error **errp)
{
    throttle_config_init(ret);
    *ret_group = NULL;
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        g_autofree char *name = g_strconcat("throttling.", options[k].name, NULL),
                        *burst = g_strconcat(name, "-max", NULL),
                        *length = g_strconcat(burst, "-length", NULL),
                        *burst_alias = g_strconcat(options[k].alias, "_max", NULL);

        if (!take(o, options[k].alias, name, &ret->limit[k].rate, errp) ||
            !take(o, burst_alias, burst, &ret->limit[k].burst, errp) ||
            !take(o, NULL, length, &ret->limit[k].length, errp)) {
            return false;
        }
    }
    if (!take(o, "iops_size", "throttling.iops-size", &ret->iops_size, errp) ||
        !drive_take_alias(o, "group", "throttling.group", errp) ||
        !throttle_config_check(ret, errp)) {
        return false;
    }
    *ret_group = legacy_opts_take(o, "throttling.group");
    return true;
}

static bool take_intervals(struct json_object *o, StatsConfig *c, Error **errp)
{
    for (unsigned i = 0;; i++) {
        g_autofree char *name = g_strdup_printf("stats-intervals.%u", i),
                        *value = legacy_opts_take(o, name);
        uint64_t seconds;

        if (!value) {
            return true;
        }
        if (!g_ascii_string_to_unsigned(value, 10, 1, STATS_INTERVAL_SECONDS_MAX, &seconds, NULL)) {
            error_set(errp, ERROR_INVALID, name, "drive", "Invalid interval length: %s", value);
            return false;
        }
        if (i == STATS_INTERVALS_MAX) {
            error_set(errp, ERROR_LIMIT, name, "drive", "There can be no more than %d intervals",
                      STATS_INTERVALS_MAX);
            return false;
        }
        c->interval[c->n_intervals++] = seconds;
    }
}

static bool take_bool(struct json_object *o, const char *name, bool *ret, Error **errp)
{
    g_autofree char *value = legacy_opts_take(o, name);

    return !value || drive_on_off(name, value, ret, errp);
}

bool drive_take_stats(struct json_object *o, StatsConfig *ret, Error **errp)
{
    *ret = STATS_CONFIG_DEFAULT;
    return take_bool(o, "stats-account-invalid", &ret->account_invalid, errp) &&
           take_bool(o, "stats-account-failed", &ret->account_failed, errp) &&
           take_intervals(o, ret, errp);
}

bool coroutine_fn qmp_block_set_io_throttle(const BlockSetIoThrottleArg *a, Error **errp)
{
    g_autoptr(Backend) b = media_find_backend(a->device, a->id, errp);
    ThrottleConfig c;

    if (!b) {
        return false;
    }
    if (!backend_edge(b)) {
        error_set(errp, ERROR_NOT_FOUND, a->id ? a->id : a->device, "limits",
                  "Device has no medium");
        return false;
    }
    throttle_config_init(&c);

#define GET(kind, name)                                                                            \
    c.limit[kind].rate = a->name;                                                                  \
    c.limit[kind].burst = a->has_##name##_max ? a->name##_max : 0;                                 \
    c.limit[kind].length = a->has_##name##_max_length ? a->name##_max_length : 1

    GET(THROTTLE_BPS_TOTAL, bps);
    GET(THROTTLE_BPS_READ, bps_rd);
    GET(THROTTLE_BPS_WRITE, bps_wr);
    GET(THROTTLE_IOPS_TOTAL, iops);
    GET(THROTTLE_IOPS_READ, iops_rd);
    GET(THROTTLE_IOPS_WRITE, iops_wr);
#undef GET
    c.iops_size = a->has_iops_size ? a->iops_size : 0;
    return backend_set_limits(b, &c, a->group, a->device ? a->device : a->id, errp);
}
