/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Any JSON value against the types of tests/qapi/test-schema.json, strictly and as from a command
 * line.  What is accepted must serialise to something that is accepted strictly and comes out the
 * same; what is refused must set an error and leave nothing behind.
 *
 * The first byte selects type and mode, the rest is JSON.
 */
#include "qapi/json-writer.h"
#include "test-qapi-types.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const QapiType *const types[] = {&qapi_type_TestDerived, &qapi_type_TestHolder,
                                        &qapi_type_TestOuter, &qapi_type_TestNumbers};

static void round_trip(const QapiType *type, void *value)
{
    g_autoptr(JsonObject) out = qapi_serialise(type, value), again = NULL;
    g_autofree char *first = qapi_json_print(out, true), *second = NULL;
    g_autoptr(Error) err = NULL;
    void *copy = qapi_copy(type, value), *reread = NULL;

    g_assert_true(qapi_parse(type, out, false, &reread, &err));
    again = qapi_serialise(type, reread);
    second = qapi_json_print(again, true);
    g_assert_cmpstr(first, ==, second);
    qapi_free(type, reread);
    qapi_free(type, copy);
}

static void check(const QapiType *type, bool keyval, struct json_object *in)
{
    g_autoptr(Error) err = NULL;
    void *value = NULL;

    if (qapi_parse(type, in, keyval, &value, &err)) {
        round_trip(type, value);
        qapi_free(type, value);
    } else {
        g_assert_nonnull(err);
        g_assert_null(value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_tokener *tokener = json_tokener_new_ex(64);
    struct json_object *in = NULL;

    if (size > 1) {
        in = json_tokener_parse_ex(tokener, (const char *)data + 1, (int)size - 1);
        if (json_tokener_get_error(tokener) == json_tokener_success) {
            check(types[(data[0] >> 1) % G_N_ELEMENTS(types)], data[0] & 1, in);
        }
    }
    json_object_put(in);
    json_tokener_free(tokener);
    return 0;
}
