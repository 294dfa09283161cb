/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Arguments of command line options, dotted or JSON, down to the types that the options have.
 *
 * What is accepted must serialise to something that is accepted strictly and comes out the same; what is refused sets an error, in
 * valid UTF-8.
 *
 * The first byte selects the option, the rest is its argument.
 */
#include "fuzz-util.h"
#include "monitor/keyval.h"
#include "qapi-types.h"
#include "qapi/json-writer.h"
#include <string.h>

static const struct {
    const QapiType *type;
    const char *implied;
} options[] = {
    {&qapi_type_BlockdevOptions, "driver"}, {&qapi_type_BlockExportOptions, "type"},
    {&qapi_type_MonitorOptions, "chardev"}, {&qapi_type_NbdServerOptions, NULL},
    {&qapi_type_ObjectOptions, "qom-type"}, {&qapi_type_SnapshotJournalOptions, "path"},
};

static void round_trip(const QapiType *type, void *value)
{
    g_autoptr(JsonObject) out = qapi_serialise(type, value), again = NULL;
    g_autofree char *first = qapi_json_print(out, false), *second = NULL;
    g_autoptr(Error) err = NULL;
    void *reread = NULL;

    if (!qapi_parse(type, out, false, &reread, &err)) {
        FUZZ_FAIL("%s is refused: %s", first, err->message);
    }
    again = qapi_serialise(type, reread);
    second = qapi_json_print(again, false);
    g_assert_cmpstr(first, ==, second);
    qapi_free(type, reread);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned which = size ? data[0] % G_N_ELEMENTS(options) : 0;
    const QapiType *type = options[which].type;
    g_autofree char *text = size ? g_strndup((const char *)data + 1, size - 1) : NULL;
    g_autoptr(Error) err = NULL;
    g_autoptr(JsonObject) args = NULL;
    void *value = NULL;
    bool keyval;

    if (!text) {
        return 0;
    }
    args = option_parse(text, options[which].implied, &keyval, &err);
    if (args && qapi_parse(type, args, keyval, &value, &err)) {
        round_trip(type, value);
        qapi_free(type, value);
    } else {
        g_assert_nonnull(err);
        g_assert_null(value);
        g_assert_true(g_utf8_validate(err->message, -1, NULL));
    }
    return 0;
}
