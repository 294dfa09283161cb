/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Printing JSON: member order, escapes, numbers, the pretty form.
 */
#include "qapi/json-writer.h"
#include <glib.h>
#include <string.h>

/* An object with the members `names` (a list with blanks between), each with its number. */
static struct json_object *object_of(const char *names)
{
    struct json_object *o = json_object_new_object();
    g_auto(GStrv) list = g_strsplit(names, " ", -1);

    for (unsigned i = 0; list[i]; i++) {
        json_object_object_add(o, list[i], json_object_new_int((int)i));
    }
    return o;
}

typedef struct Order {
    const char *inserted, *printed;
} Order;

/* Orders that clients' expectations hold; what is inserted is in schema order where it matters. */
static const Order orders[] = {
    {"event data timestamp", "timestamp event data"},
    {"seconds microseconds", "seconds microseconds"},
    {"id return", "return id"},
    {"error id", "id error"},
    {"desc class", "class desc"},
    {"id status", "status id"},
    {"type device len offset speed error", "device len offset speed type error"},
    {"reason guest", "guest reason"},
    {"action device operation", "device operation action"},
    {"id type status current-progress total-progress error",
     "current-progress status total-progress type id error"},
    {"type device len offset busy paused speed io-status ready status auto-finalize auto-dismiss "
     "error",
     "auto-finalize io-status device auto-dismiss busy len offset status paused speed ready type "
     "error"},
    {"device qdev type removable locked inserted tray_open io-status",
     "io-status device locked removable inserted qdev tray_open type"},
    /* backing_file and write_threshold share a bucket: the later one first */
    {"file node-name ro drv backing_file backing_file_depth active encrypted detect_zeroes bps "
     "bps_rd bps_wr iops iops_rd iops_wr image cache write_threshold",
     "iops_rd detect_zeroes active image iops_wr ro node-name backing_file_depth drv iops bps_wr "
     "write_threshold backing_file encrypted bps bps_rd cache file"},
    {"write_threshold backing_file", "backing_file write_threshold"},
    {"filename format dirty-flag actual-size virtual-size cluster-size encrypted compressed "
     "backing-filename full-backing-filename backing-filename-format snapshots backing-image "
     "format-specific",
     "backing-image compressed backing-filename-format snapshots virtual-size filename "
     "cluster-size format actual-size format-specific full-backing-filename encrypted "
     "backing-filename dirty-flag"},
    {"name count granularity recording busy persistent",
     "name recording persistent busy granularity count"},
    {"parent child name perm shared-perm", "name parent shared-perm perm child"},
    {"id type name", "name type id"},
    {"nodes edges", "edges nodes"},
    /* major is elsewhere, minor and micro share a bucket */
    {"major minor micro", "micro minor major"},
    {"micro minor major", "minor micro major"},
    {"version capabilities", "version capabilities"},
};

static void test_order(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(orders); i++) {
        struct json_object *o = object_of(orders[i].inserted);
        g_autofree QapiJsonMember *members = qapi_json_members(o);
        g_autoptr(GString) printed = g_string_new(NULL);

        for (int k = 0; k < json_object_object_length(o); k++) {
            g_string_append_printf(printed, "%s%s", k ? " " : "", members[k].key);
        }
        g_assert_cmpstr(printed->str, ==, orders[i].printed);
        json_object_put(o);
    }
}

/* Consumes o. */
static void check(struct json_object *o, bool pretty, const char *expected)
{
    g_autofree char *text = qapi_json_print(o, pretty);

    g_assert_cmpstr(text, ==, expected);
    json_object_put(o);
}

static void check_string(const char *text, int len, const char *expected)
{
    check(json_object_new_string_len(text, len), false, expected);
}

static void test_strings(void)
{
    check_string("plain", 5, "\"plain\"");
    check_string("", 0, "\"\"");
    check_string("\"\\/\b\f\n\r\t", 8, "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    check_string("\x01\x1f\x7f~", 4, "\"\\u0001\\u001F\\u007F~\"");
    check_string("a\0b", 3, "\"a\\u0000b\"");
    check_string("\303\251\342\202\254\360\237\230\200", 9, "\"\\u00E9\\u20AC\\uD83D\\uDE00\"");
    /* a lone continuation byte, an overlong slash, a surrogate, a sequence cut off */
    check_string("a\200b", 3, "\"a\\uFFFDb\"");
    check_string("\300\257", 2, "\"\\uFFFD\\uFFFD\"");
    check_string("\355\240\200", 3, "\"\\uFFFD\\uFFFD\\uFFFD\"");
    check_string("x\342\202", 3, "\"x\\uFFFD\\uFFFD\"");
}

static void test_scalars(void)
{
    check(NULL, false, "null");
    check(json_object_new_boolean(true), false, "true");
    check(json_object_new_boolean(false), false, "false");
    check(json_object_new_int64(INT64_MIN), false, "-9223372036854775808");
    check(json_object_new_int64(INT64_MAX), false, "9223372036854775807");
    check(json_object_new_uint64(UINT64_MAX), false, "18446744073709551615");
    check(json_object_new_double(1000), false, "1000");
    check(json_object_new_double(0.1), false, "0.10000000000000001");
    check(json_object_new_double(-0.0), false, "-0");
    /* what was read keeps its value, not its spelling */
    check(json_tokener_parse("1.50e1"), false, "15");
}

static void test_shape(void)
{
    const char *text = "{\"b\": {\"x\": [1, {}, []], \"y\": null}, \"a\": [\"s\", {\"z\": true}]}";

    check(json_tokener_parse(text), false,
          "{\"a\": [\"s\", {\"z\": true}], \"b\": {\"x\": [1, {}, []], \"y\": null}}");
    check(json_tokener_parse("{}"), false, "{}");
    check(json_tokener_parse("[]"), false, "[]");
    check(json_tokener_parse(text), true,
          "{\n"
          "    \"a\": [\n"
          "        \"s\",\n"
          "        {\n"
          "            \"z\": true\n"
          "        }\n"
          "    ],\n"
          "    \"b\": {\n"
          "        \"x\": [\n"
          "            1,\n"
          "            {\n"
          "            },\n"
          "            [\n"
          "            ]\n"
          "        ],\n"
          "        \"y\": null\n"
          "    }\n"
          "}");
    check(json_tokener_parse("{}"), true, "{\n}");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/json/order", test_order);
    g_test_add_func("/qapi/json/strings", test_strings);
    g_test_add_func("/qapi/json/scalars", test_scalars);
    g_test_add_func("/qapi/json/shape", test_shape);
    return g_test_run();
}
