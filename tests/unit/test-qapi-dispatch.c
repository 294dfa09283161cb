/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests: the checks in their order, replies, ids; events.
 *
 * The commands are those of tests/qapi/test-schema.json.  None of them waits, so no loop is needed.
 */
#include "qapi/json-writer.h"
#include "test-qapi-commands.h"
#include "test-qapi-events.h"
#include "test-qapi-introspect.h"
#include <string.h>

static unsigned calls;

/* ---- handlers ---- */

bool coroutine_fn qmp_do_nothing(Error **errp)
{
    (void)errp;
    calls++;
    return true;
}

bool coroutine_fn qmp_silent(Error **errp)
{
    (void)errp;
    calls++;
    return true;
}

bool coroutine_fn qmp_urgent(Error **errp)
{
    (void)errp;
    calls++;
    return true;
}

bool coroutine_fn qmp_echo_holder(const TestHolder *arg, TestHolder **ret_out, Error **errp)
{
    (void)errp;
    calls++;
    *ret_out = qapi_copy_TestHolder(arg);
    return true;
}

bool coroutine_fn qmp_repeat(const RepeatArg *arg, TestBaseList **ret_out, Error **errp)
{
    TestBaseList *list = NULL;

    (void)errp;
    calls++;
    for (unsigned i = 0; i < (arg->has_times ? arg->times : 1); i++) {
        TestBaseList *item = g_new0(TestBaseList, 1);

        item->value = g_new0(TestBase, 1);
        item->value->id = g_strdup(arg->text);
        item->next = list;
        list = item;
    }
    *ret_out = list;
    return true;
}

bool coroutine_fn qmp_get_count(const TestOuter *arg, intList **ret_out, Error **errp)
{
    (void)errp;
    calls++;
    *ret_out = g_new0(intList, 1);
    (*ret_out)->value = arg->shape;
    return true;
}

bool coroutine_fn qmp_fail(const FailArg *arg, Error **errp)
{
    calls++;
    error_set_class(errp,
                    g_str_equal(arg->class, "gone") ? ERROR_CLASS_DEVICE_NOT_FOUND
                                                    : ERROR_CLASS_GENERIC_ERROR,
                    ERROR_NOT_FOUND, NULL, NULL, "No \"%s\" here", arg->class);
    return false;
}

/* Results that are no objects. */

bool coroutine_fn qmp_get_int(int64_t *ret_out, Error **errp)
{
    (void)errp;
    *ret_out = INT64_MIN;
    return true;
}

bool coroutine_fn qmp_get_byte(uint8_t *ret_out, Error **errp)
{
    (void)errp;
    *ret_out = 255;
    return true;
}

bool coroutine_fn qmp_get_half(double *ret_out, Error **errp)
{
    (void)errp;
    *ret_out = 0.5;
    return true;
}

bool coroutine_fn qmp_get_on(bool *ret_out, Error **errp)
{
    (void)errp;
    *ret_out = true;
    return true;
}

bool coroutine_fn qmp_get_text(char **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = g_strdup("text");
    return true;
}

bool coroutine_fn qmp_get_any(const GetAnyArg *arg, struct json_object **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = json_object_get(arg->value);
    return true;
}

bool coroutine_fn qmp_get_null(bool *ret_out, Error **errp)
{
    (void)errp;
    (void)ret_out;
    return true;
}

bool coroutine_fn qmp_get_colour(TestColour *ret_out, Error **errp)
{
    (void)errp;
    *ret_out = COLOUR_3D;
    return true;
}

bool coroutine_fn qmp_get_alternate(TestAny **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = g_new0(TestAny, 1);
    (*ret_out)->type = QAPI_KIND_STRING;
    (*ret_out)->u.text = g_strdup("alternate");
    return true;
}

bool coroutine_fn qmp_awkward(const TestAwkward *arg, TestBare **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = g_new0(TestBare, 1);
    (*ret_out)->shape = TEST_SHAPE_DEEP;
    (*ret_out)->text =
        g_strdup_printf("%d %d", (int)arg->q_errno, arg->has_q_default && arg->q_default);
    return true;
}

static struct json_object *raw(struct json_object *args, Error **errp)
{
    (void)args;
    static unsigned count;

    calls++;
    if (count++ > 0) {
        error_set(errp, ERROR_LIMIT, NULL, NULL, "Once only");
        return NULL;
    }
    return json_object_new_string("raw");
}

/* ---- requests ---- */

static bool all_but_silent(void *opaque, const char *name, Error **errp)
{
    ++*(unsigned *)opaque;
    if (g_str_equal(name, "silent")) {
        error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_INVALID, NULL, NULL, "Not now");
        return false;
    }
    return true;
}

typedef struct Case {
    const char *request, *reply; /* NULL: no reply */
    unsigned calls;              /* of handlers */
} Case;

#define ERROR(DESC)     "\"error\": {\"class\": \"GenericError\", \"desc\": \"" DESC "\"}}"
#define NOT_FOUND(DESC) "\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"" DESC "\"}}"

static void check(const Case *c, bool oob, QapiAllowed *allowed, void *opaque)
{
    struct json_object *request = json_tokener_parse(c->request), *reply;
    g_autofree char *before = qapi_json_print(request, false), *after = NULL, *text = NULL;
    unsigned old = calls;

    reply = (oob ? qapi_dispatch_oob : qapi_dispatch)(test_qapi_commands, test_qapi_commands_count,
                                                      request, allowed, opaque);
    text = reply ? qapi_json_print(reply, false) : NULL;
    g_assert_cmpstr(text, ==, c->reply);
    g_assert_cmpuint(calls - old, ==, c->calls);
    after = qapi_json_print(request, false);
    g_assert_cmpstr(before, ==, after);
    json_object_put(reply);
    json_object_put(request);
}

static void test_good(void)
{
    static const Case cases[] = {
        {"{\"execute\":\"do-nothing\"}", "{\"return\": {}}", 1},
        {"{\"execute\":\"do-nothing\",\"arguments\":{}}", "{\"return\": {}}", 1},
        {"{\"id\":7,\"execute\":\"do-nothing\"}", "{\"return\": {}, \"id\": 7}", 1},
        {"{\"execute\":\"do-nothing\",\"id\":null}", "{\"return\": {}, \"id\": null}", 1},
        {"{\"execute\":\"do-nothing\",\"id\":{\"a\":[1]}}",
         "{\"return\": {}, \"id\": {\"a\": [1]}}", 1},
        {"{\"execute\":\"repeat\",\"arguments\":{\"text\":\"t\",\"times\":2}}",
         "{\"return\": [{\"id\": \"t\"}, {\"id\": \"t\"}]}", 1},
        {"{\"execute\":\"repeat\",\"arguments\":{\"text\":\"t\",\"times\":0}}", "{\"return\": []}",
         1},
        {"{\"execute\":\"echo-holder\",\"arguments\":{\"any\":null,\"list\":[\"x\",[3]]}}",
         "{\"return\": {\"list\": [\"x\", [3]], \"any\": null}}", 1},
        {"{\"execute\":\"get-count\",\"arguments\":{\"shape\":\"square\",\"side\":1}}",
         "{\"return\": [1]}", 1},
        {"{\"execute\":\"silent\"}", NULL, 1},
        {"{\"execute\":\"get-int\"}", "{\"return\": -9223372036854775808}", 0},
        {"{\"execute\":\"get-byte\"}", "{\"return\": 255}", 0},
        {"{\"execute\":\"get-half\"}", "{\"return\": 0.5}", 0},
        {"{\"execute\":\"get-on\"}", "{\"return\": true}", 0},
        {"{\"execute\":\"get-text\",\"id\":1}", "{\"return\": \"text\", \"id\": 1}", 0},
        {"{\"execute\":\"get-any\",\"arguments\":{\"value\":[1,{}]}}", "{\"return\": [1, {}]}", 0},
        {"{\"execute\":\"get-any\",\"arguments\":{\"value\":null}}", "{\"return\": null}", 0},
        {"{\"execute\":\"get-null\"}", "{\"return\": null}", 0},
        {"{\"execute\":\"get-colour\"}", "{\"return\": \"3d\"}", 0},
        {"{\"execute\":\"get-alternate\"}", "{\"return\": \"alternate\"}", 0},
        {"{\"execute\":\"awkward\",\"arguments\":{\"errno\":7,\"default\":true,\"unix\":1}}",
         "{\"return\": {\"shape\": \"deep\", \"text\": \"7 1\"}}", 0},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        check(&cases[i], false, NULL, NULL);
    }
}

static void test_bad_requests(void)
{
    static const Case cases[] = {
        {"[]", "{" ERROR("QMP input must be a JSON object"), 0},
        {"\"x\"", "{" ERROR("QMP input must be a JSON object"), 0},
        {"null", "{" ERROR("QMP input must be a JSON object"), 0},
        {"{}", "{" ERROR("QMP input lacks member 'execute'"), 0},
        {"{\"id\":1}", "{\"id\": 1, " ERROR("QMP input lacks member 'execute'"), 0},
        {"{\"execute\":1}", "{" ERROR("QMP input member 'execute' must be a string"), 0},
        {"{\"execute\":null,\"id\":\"i\"}",
         "{\"id\": \"i\", " ERROR("QMP input member 'execute' must be a string"), 0},
        {"{\"execute\":\"do-nothing\",\"arguments\":[]}",
         "{" ERROR("QMP input member 'arguments' must be an object"), 0},
        {"{\"execute\":\"do-nothing\",\"arguments\":null}",
         "{" ERROR("QMP input member 'arguments' must be an object"), 0},
        /* what is wrong comes in the order of the dictionary, not of the text */
        {"{\"execute\":\"do-nothing\",\"zz\":1,\"aa\":1,\"bb\":3}",
         "{" ERROR("QMP input member 'bb' is unexpected"), 0},
        {"{\"arguments\":4,\"execute\":3}",
         "{" ERROR("QMP input member 'execute' must be a string"), 0},
        {"{\"exec-oob\":\"urgent\"}", "{" ERROR("QMP input member 'exec-oob' is unexpected"), 0},
        {"{\"execute\":\"no-such\",\"arguments\":{\"x\":1}}",
         "{" NOT_FOUND("The command no-such has not been found"), 0},
        {"{\"execute\":\"gone\"}", "{" NOT_FOUND("The command gone has not been found"), 0},
        {"{\"execute\":\"do-nothing\",\"arguments\":{\"x\":1}}",
         "{" ERROR("Parameter 'x' is unexpected"), 0},
        {"{\"execute\":\"repeat\"}", "{" ERROR("Parameter 'text' is missing"), 0},
        {"{\"execute\":\"repeat\",\"arguments\":{\"text\":\"t\",\"times\":256},\"id\":2}",
         "{\"id\": 2, " ERROR("Parameter 'times' expects uint8_t"), 0},
        {"{\"execute\":\"fail\",\"arguments\":{\"class\":\"thing\"}}",
         "{" ERROR("No \\\"thing\\\" here"), 1},
        {"{\"execute\":\"fail\",\"id\":[],\"arguments\":{\"class\":\"gone\"}}",
         "{\"id\": [], \"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"No \\\"gone\\\" "
         "here\"}}",
         1},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        check(&cases[i], false, NULL, NULL);
    }
}

static void test_raw(void)
{
    static const Case early = {"{\"execute\":\"raw\"}",
                               "{" NOT_FOUND("Command raw has been disabled"), 0},
                      bad = {"{\"execute\":\"raw\",\"arguments\":{\"y\":1}}",
                             "{" ERROR("Parameter 'y' is unexpected"), 0},
                      good = {"{\"execute\":\"raw\",\"arguments\":{\"x\":1}}",
                              "{\"return\": \"raw\"}", 1},
                      again = {"{\"execute\":\"raw\"}", "{" ERROR("Once only"), 1};

    check(&early, false, NULL, NULL);
    qapi_set_raw_command("raw", raw);
    check(&bad, false, NULL, NULL);
    check(&good, false, NULL, NULL);
    check(&again, false, NULL, NULL);
}

static void test_allowed(void)
{
    static const Case yes = {"{\"execute\":\"do-nothing\"}", "{\"return\": {}}", 1},
                      no = {"{\"execute\":\"silent\",\"id\":1}",
                            "{\"id\": 1, " NOT_FOUND("Not now"), 0},
                      unknown = {"{\"execute\":\"x\"}",
                                 "{" NOT_FOUND("The command x has not been found"), 0},
                      shapeless = {"{}", "{" ERROR("QMP input lacks member 'execute'"), 0};
    unsigned asked = 0;

    check(&yes, false, all_but_silent, &asked);
    check(&no, false, all_but_silent, &asked);
    check(&unknown, false, all_but_silent, &asked);
    g_assert_cmpuint(asked, ==, 3);
    check(&shapeless, false, all_but_silent, &asked);
    g_assert_cmpuint(asked, ==, 3);
}

static void test_oob(void)
{
    static const Case cases[] = {
        {"{\"exec-oob\":\"urgent\",\"id\":1}", "{\"return\": {}, \"id\": 1}", 1},
        {"{\"execute\":\"urgent\"}", "{\"return\": {}}", 1},
        {"{\"exec-oob\":\"do-nothing\"}", "{" ERROR("The command do-nothing does not support OOB"),
         0},
        {"{\"exec-oob\":\"x\"}", "{" NOT_FOUND("The command x has not been found"), 0},
        {"{\"exec-oob\":1}", "{" ERROR("QMP input member 'exec-oob' must be a string"), 0},
        {"{\"exec-oob\":\"urgent\",\"execute\":\"urgent\"}",
         "{" ERROR("QMP input member 'execute' clashes with 'exec-oob'"), 0},
        {"{\"exec-oob\":\"urgent\",\"x\":1}", "{" ERROR("QMP input member 'x' is unexpected"), 0},
    };
    struct {
        const char *request;
        bool oob;
    } asks[] = {{"{\"exec-oob\":\"x\"}", true},
                {"{\"execute\":\"x\"}", false},
                {"{\"exec-oob\":\"x\",\"execute\":\"y\"}", false},
                {"[]", false}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        check(&cases[i], true, NULL, NULL);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(asks); i++) {
        g_autoptr(JsonObject) request = json_tokener_parse(asks[i].request);

        g_assert_true(qapi_request_is_oob(request) == asks[i].oob);
    }
}

static void test_table(void)
{
    static const struct {
        const char *name;
        unsigned flags;
    } rows[] = {
        {"do-nothing", 0},
        {"echo-holder", 0},
        {"repeat", QAPI_COMMAND_PRECONFIG},
        {"get-count", QAPI_COMMAND_UNSTABLE},
        {"fail", QAPI_COMMAND_COROUTINE},
        {"raw", 0},
        {"silent", QAPI_COMMAND_NO_RESPONSE},
        {"urgent", QAPI_COMMAND_OOB | QAPI_COMMAND_DEPRECATED},
        {"get-int", QAPI_COMMAND_DEPRECATED},
        {"get-byte", QAPI_COMMAND_OOB | QAPI_COMMAND_UNSTABLE},
        {"get-half", 0},
        {"get-on", 0},
        {"get-text", 0},
        {"get-any", 0},
        {"get-null", 0},
        {"get-colour", 0},
        {"get-alternate", 0},
        {"awkward", 0},
    };

    g_assert_cmpuint(test_qapi_commands_count, ==, G_N_ELEMENTS(rows));
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_assert_cmpstr(test_qapi_commands[i].name, ==, rows[i].name);
        g_assert_cmpuint(test_qapi_commands[i].flags, ==, rows[i].flags);
    }
}

/* ---- events ---- */

static int event_id;
static char *event_text;

static void take_event(int id, struct json_object *event)
{
    struct json_object *t, *v;
    gint64 now = g_get_real_time(), then;

    g_assert_true(json_object_object_get_ex(event, "timestamp", &t));
    g_assert_true(json_object_object_get_ex(t, "seconds", &v));
    then = json_object_get_int64(v) * G_USEC_PER_SEC;
    g_assert_true(json_object_object_get_ex(t, "microseconds", &v));
    g_assert_cmpint(json_object_get_int64(v), <, G_USEC_PER_SEC);
    then += json_object_get_int64(v);
    g_assert_cmpint(then, <=, now);
    g_assert_cmpint(then, >, now - 60 * G_USEC_PER_SEC);
    json_object_object_del(event, "timestamp");
    event_id = id;
    g_free(event_text);
    event_text = qapi_json_print(event, false);
}

static void test_events(void)
{
    TestColourList second = {NULL, COLOUR_3D}, first = {&second, COLOUR_RED};
    TestOuter outer = {.shape = TEST_SHAPE_CIRCLE, .u.circle = {.radius = 3}};

    test_qapi_event_send_nothing_new(); /* nobody listens */
    qapi_event_set_emitter(take_event);
    test_qapi_event_send_nothing_new();
    g_assert_cmpint(event_id, ==, TEST_QAPI_EVENT_NOTHING_NEW);
    g_assert_cmpstr(event_text, ==, "{\"event\": \"NOTHING_NEW\"}");
    test_qapi_event_send_something("i", false, 5, NULL);
    g_assert_cmpint(event_id, ==, TEST_QAPI_EVENT_SOMETHING);
    g_assert_cmpstr(event_text, ==, "{\"event\": \"SOMETHING\", \"data\": {\"id\": \"i\"}}");
    test_qapi_event_send_something("i", true, 5, &first);
    g_assert_cmpstr(event_text, ==,
                    "{\"event\": \"SOMETHING\", \"data\": {\"colours\": [\"red\", \"3d\"], "
                    "\"count\": 5, \"id\": \"i\"}}");
    test_qapi_event_send_awkward("d", true, 1);
    g_assert_cmpstr(event_text, ==,
                    "{\"event\": \"AWKWARD\", \"data\": {\"default\": 1, \"data\": \"d\"}}");
    test_qapi_event_send_shape(&outer);
    g_assert_cmpstr(event_text, ==,
                    "{\"event\": \"SHAPE\", \"data\": {\"shape\": \"circle\", \"radius\": 3}}");
    qapi_event_set_emitter(NULL);
    g_clear_pointer(&event_text, g_free);
}

/* ---- introspection ---- */

static bool contains_text(const char *text)
{
    for (unsigned i = 0; test_qapi_introspection[i]; i++) {
        if (strstr(test_qapi_introspection[i], text)) {
            return true;
        }
    }
    return false;
}

static void test_introspection(void)
{
    static const char *const first[] = {
        "{\"name\": \"do-nothing\", \"meta-type\": \"command\", \"arg-type\": \"0\", "
        "\"ret-type\": \"0\"}",
        "{\"name\": \"echo-holder\", \"meta-type\": \"command\", \"arg-type\": \"1\", "
        "\"ret-type\": \"1\"}",
        "{\"name\": \"repeat\", \"meta-type\": \"command\", \"arg-type\": \"2\", "
        "\"ret-type\": \"[3]\"}",
        "{\"name\": \"get-count\", \"meta-type\": \"command\", \"arg-type\": \"4\", "
        "\"ret-type\": \"[int]\", \"features\": [\"unstable\"]}",
    };
    static const char *const some[] = {
        "{\"name\": \"urgent\", \"meta-type\": \"command\", \"arg-type\": \"0\", \"ret-type\": "
        "\"0\", \"allow-oob\": true, \"features\": [\"deprecated\"]}",
        "{\"name\": \"NOTHING_NEW\", \"meta-type\": \"event\", \"arg-type\": \"0\"}",
        "{\"name\": \"get-int\", \"meta-type\": \"command\", \"arg-type\": \"0\", \"ret-type\": "
        "\"int\", \"features\": [\"deprecated\"]}",
        "{\"name\": \"int\", \"meta-type\": \"builtin\", \"json-type\": \"int\"}",
        "{\"name\": \"[int]\", \"meta-type\": \"array\", \"element-type\": \"int\"}",
        "{\"name\": \"0\", \"meta-type\": \"object\", \"members\": []}",
    };

    for (unsigned i = 0; test_qapi_introspection[i]; i++) {
        g_autoptr(JsonObject) o = json_tokener_parse(test_qapi_introspection[i]);

        g_assert_nonnull(o);
        g_assert_null(strstr(test_qapi_introspection[i], "ghost"));
        if (i < G_N_ELEMENTS(first)) {
            g_assert_cmpstr(test_qapi_introspection[i], ==, first[i]);
        }
    }
    g_assert_true(contains_text("\"name\": \"unix\", \"type\": \"int\", \"default\": null, "
                                "\"features\": [\"even\", \"unstable\"]}]}"));
    g_assert_true(contains_text("\"tag\": \"shape\", \"variants\": [{\"case\": \"circle\", "
                                "\"type\": \"0\"}, {\"case\": \"square\", \"type\": \"0\"}"));
    for (unsigned i = 0; i < G_N_ELEMENTS(some); i++) {
        g_assert_true(g_strv_contains(test_qapi_introspection, some[i]));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/dispatch/good", test_good);
    g_test_add_func("/qapi/dispatch/bad-requests", test_bad_requests);
    g_test_add_func("/qapi/dispatch/raw", test_raw);
    g_test_add_func("/qapi/dispatch/allowed", test_allowed);
    g_test_add_func("/qapi/dispatch/oob", test_oob);
    g_test_add_func("/qapi/dispatch/table", test_table);
    g_test_add_func("/qapi/events", test_events);
    g_test_add_func("/qapi/introspection", test_introspection);
    return g_test_run();
}
