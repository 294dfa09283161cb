/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The JSON stream of monitors.
 *
 * Whatever the bytes are, and however they are cut into reads, the same values and errors come out; a value that was accepted is accepted
 * again when it is written out, and is the same then.
 *
 * The first byte is the length of a read, the rest is what a client sends.
 */
#include "fuzz-util.h"
#include "monitor/json-stream.h"
#include "qapi/json-writer.h"
#include <string.h>

/* The order of members may differ: it is that of a dictionary whose buckets are filled in the order of the text.  So may the type of a
 * number: 3e3 comes back as 3000. */
static bool same(struct json_object *a, struct json_object *b)
{
    g_autofree char *text_a = NULL, *text_b = NULL;

    if (json_object_is_type(a, json_type_array)) {
        size_t n = json_object_array_length(a);

        if (!json_object_is_type(b, json_type_array) || json_object_array_length(b) != n) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (!same(json_object_array_get_idx(a, i), json_object_array_get_idx(b, i))) {
                return false;
            }
        }
        return true;
    }
    if (json_object_is_type(a, json_type_object)) {
        if (!json_object_is_type(b, json_type_object) ||
            json_object_object_length(a) != json_object_object_length(b)) {
            return false;
        }
        json_object_object_foreach(a, key, value)
        {
            struct json_object *other;

            if (!json_object_object_get_ex(b, key, &other) || !same(value, other)) {
                return false;
            }
        }
        return true;
    }
    text_a = qapi_json_print(a, false);
    text_b = qapi_json_print(b, false);
    return strcmp(text_a, text_b) == 0;
}

static void check_again(struct json_object *value, const char *text)
{
    g_autoptr(Error) err = NULL;
    struct json_object *again = NULL;

    if (!json_parse_text(text, &again, &err)) {
        FUZZ_FAIL("'%s' is refused: %s", text, err->message);
    }
    g_assert_true(same(value, again));
    json_object_put(again);
}

static void on_value(void *opaque, struct json_object *value, const Error *err)
{
    GString *all = opaque;

    g_assert_true(!err || !value);
    if (err) {
        g_assert_true(g_utf8_validate(err->message, -1, NULL));
        g_string_append_printf(all, "error %s\n", err->message);
    } else {
        g_autofree char *text = qapi_json_print(value, false);

        g_string_append_printf(all, "value %s\n", text);
        if (json_object_is_type(value, json_type_object) ||
            json_object_is_type(value, json_type_array)) {
            check_again(value, text);
        }
        json_object_put(value);
    }
}

static char *run(const uint8_t *data, size_t size, size_t step)
{
    GString *all = g_string_new(NULL);
    g_autoptr(JsonStream) s = json_stream_new(on_value, all);

    for (size_t done = 0; done < size; done += step) {
        json_stream_feed(s, (const char *)data + done, MIN(step, size - done));
    }
    json_stream_end(s);
    return g_string_free(all, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *whole = NULL, *pieces = NULL;

    if (size > 1) {
        whole = run(data + 1, size - 1, size);
        pieces = run(data + 1, size - 1, 1 + data[0]);
        g_assert_cmpstr(whole, ==, pieces);
    }
    return 0;
}
