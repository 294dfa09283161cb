/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Parsing, serialising, copying and freeing values by their tables: what comes in strictly as JSON,
 * what comes in from a command line, the text of every error.
 */
#include "qapi/json-writer.h"
#include "test-qapi-types.h"
#include "util/coroutine.h"
#include <pthread.h>

typedef struct Case {
    const QapiType *type;
    const char *in;
    const char *out;   /* what it serialises to, members in schema order; NULL: an error */
    const char *error; /* its text */
} Case;

static struct json_object *json(const char *text)
{
    enum json_tokener_error err;
    struct json_object *o = json_tokener_parse_verbose(text, &err);

    g_assert_cmpint(err, ==, json_tokener_success);
    return o;
}

static const char *text_of(struct json_object *o)
{
    return json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
}

static void check_good(const Case *c, bool keyval)
{
    g_autoptr(JsonObject) in = json(c->in), out = NULL, again = NULL;
    g_autoptr(Error) err = NULL;
    void *value = NULL, *copy;

    if (!qapi_parse(c->type, in, keyval, &value, &err)) {
        g_error("%s: %s", c->in, err->message);
    }
    out = qapi_serialise(c->type, value);
    g_assert_cmpstr(text_of(out), ==, c->out);
    copy = qapi_copy(c->type, value);
    qapi_free(c->type, value);
    again = qapi_serialise(c->type, copy);
    g_assert_cmpstr(text_of(again), ==, c->out);
    qapi_free(c->type, copy);
}

static void check_bad(const Case *c, bool keyval)
{
    g_autoptr(JsonObject) in = json(c->in);
    g_autoptr(Error) err = NULL;
    void *value = &value;

    if (qapi_parse(c->type, in, keyval, &value, &err)) {
        g_error("%s: was accepted", c->in);
    }
    g_assert_cmpstr(err->message, ==, c->error);
    g_assert_cmpint(err->kind, ==, ERROR_INVALID);
    g_assert_cmpint(err->cls, ==, ERROR_CLASS_GENERIC_ERROR);
    g_assert_true(value == &value); /* untouched */
}

static void check(const Case *cases, size_t n, bool keyval)
{
    for (size_t i = 0; i < n; i++) {
        if (cases[i].out) {
            check_good(&cases[i], keyval);
        } else {
            check_bad(&cases[i], keyval);
        }
    }
}

#define T(N)                   &qapi_type_##N
#define TYPE_ERROR(PATH, TYPE) "Invalid parameter type for '" PATH "', expected: " TYPE

static void test_integers(void)
{
    static const Case cases[] = {
        {T(TestNumbers), "{}", "{}", NULL},
        {T(TestNumbers), "{\"i8\":-128}", "{\"i8\":-128}", NULL},
        {T(TestNumbers), "{\"i8\":127}", "{\"i8\":127}", NULL},
        {T(TestNumbers), "{\"i8\":128}", NULL, "Parameter 'i8' expects int8_t"},
        {T(TestNumbers), "{\"i8\":-129}", NULL, "Parameter 'i8' expects int8_t"},
        {T(TestNumbers), "{\"i16\":-32768}", "{\"i16\":-32768}", NULL},
        {T(TestNumbers), "{\"i16\":32768}", NULL, "Parameter 'i16' expects int16_t"},
        {T(TestNumbers), "{\"i32\":-2147483648}", "{\"i32\":-2147483648}", NULL},
        {T(TestNumbers), "{\"i32\":2147483647}", "{\"i32\":2147483647}", NULL},
        {T(TestNumbers), "{\"i32\":2147483648}", NULL, "Parameter 'i32' expects int32_t"},
        {T(TestNumbers), "{\"i64\":-9223372036854775808}", "{\"i64\":-9223372036854775808}", NULL},
        {T(TestNumbers), "{\"i64\":9223372036854775807}", "{\"i64\":9223372036854775807}", NULL},
        {T(TestNumbers), "{\"i64\":9223372036854775808}", NULL, TYPE_ERROR("i64", "integer")},
        {T(TestNumbers), "{\"i\":9223372036854775808}", NULL, TYPE_ERROR("i", "integer")},
        {T(TestNumbers), "{\"i\":1.0}", NULL, TYPE_ERROR("i", "integer")},
        {T(TestNumbers), "{\"i\":\"1\"}", NULL, TYPE_ERROR("i", "integer")},
        {T(TestNumbers), "{\"i8\":true}", NULL, TYPE_ERROR("i8", "integer")},
        {T(TestNumbers), "{\"i8\":null}", NULL, TYPE_ERROR("i8", "integer")},
        {T(TestNumbers), "{\"u8\":255}", "{\"u8\":255}", NULL},
        {T(TestNumbers), "{\"u8\":256}", NULL, "Parameter 'u8' expects uint8_t"},
        {T(TestNumbers), "{\"u8\":-1}", NULL, "Parameter 'u8' expects uint8_t"},
        {T(TestNumbers), "{\"u16\":65535}", "{\"u16\":65535}", NULL},
        {T(TestNumbers), "{\"u16\":65536}", NULL, "Parameter 'u16' expects uint16_t"},
        {T(TestNumbers), "{\"u32\":4294967295}", "{\"u32\":4294967295}", NULL},
        {T(TestNumbers), "{\"u32\":4294967296}", NULL, "Parameter 'u32' expects uint32_t"},
        {T(TestNumbers), "{\"u32\":\"1\"}", NULL, "Parameter 'u32' expects uint64"},
        {T(TestNumbers), "{\"u64\":18446744073709551615}", "{\"u64\":18446744073709551615}", NULL},
        {T(TestNumbers), "{\"u64\":-1}", "{\"u64\":18446744073709551615}", NULL},
        {T(TestNumbers), "{\"u64\":1.5}", NULL, "Parameter 'u64' expects uint64"},
        {T(TestNumbers), "{\"size\":18446744073709551615}", "{\"size\":18446744073709551615}",
         NULL},
        {T(TestNumbers), "{\"size\":-1}", NULL, "Parameter 'size' expects uint64"},
        {T(TestNumbers), "{\"size\":\"4k\"}", NULL, "Parameter 'size' expects uint64"},
    };

    check(cases, G_N_ELEMENTS(cases), false);
}

static void test_scalars(void)
{
    static const Case cases[] = {
        {T(TestNumbers), "{\"number\":1.5,\"bool\":true}", "{\"number\":1.5,\"bool\":true}", NULL},
        {T(TestNumbers), "{\"number\":2}", "{\"number\":2.0}", NULL},
        {T(TestNumbers), "{\"number\":\"2\"}", NULL, TYPE_ERROR("number", "number")},
        {T(TestNumbers), "{\"bool\":1}", NULL, TYPE_ERROR("bool", "boolean")},
        {T(TestNumbers), "{\"bool\":\"on\"}", NULL, TYPE_ERROR("bool", "boolean")},
        {T(TestBase), "{\"id\":\"\"}", "{\"id\":\"\"}", NULL},
        {T(TestBase), "{\"id\":\"\\u00e9\\\"\"}", "{\"id\":\"\303\251\\\"\"}", NULL},
        {T(TestBase), "{\"id\":5}", NULL, TYPE_ERROR("id", "string")},
        {T(TestBase), "{\"id\":null}", NULL, TYPE_ERROR("id", "string")},
        {T(TestBase), "{\"id\":\"a\\u0000b\"}", NULL,
         "Parameter 'id' must not contain the character U+0000"},
        {T(TestDerived), "{\"id\":\"a\",\"colours\":[\"red\",\"3d\",\"dark_green\",\"blue\"]}",
         "{\"id\":\"a\",\"colours\":[\"red\",\"3d\",\"dark_green\",\"blue\"]}", NULL},
        /* neither its own name nor its list's, as ever */
        {T(TestDerived), "{\"id\":\"a\",\"colours\":[\"red\",\"ghost\"]}", NULL,
         "Parameter 'null' does not accept value 'ghost'"},
        {T(TestDerived), "{\"id\":\"a\",\"colours\":[\"\"]}", NULL,
         "Parameter 'null' does not accept value ''"},
        {T(TestInner), "{\"colour\":\"Red\"}", NULL,
         "Parameter 'colour' does not accept value 'Red'"},
        {T(TestInner), "{\"colour\":1}", NULL, TYPE_ERROR("colour", "string")},
    };

    check(cases, G_N_ELEMENTS(cases), false);
}

static void test_objects(void)
{
    static const Case cases[] = {
        {T(TestNothing), "{}", "{}", NULL},
        {T(TestNothing), "{\"a\":1}", NULL, "Parameter 'a' is unexpected"},
        {T(TestNothing), "[]", NULL, TYPE_ERROR("null", "object")},
        {T(TestBase), "{}", NULL, "Parameter 'id' is missing"},
        {T(TestBase), "{\"note\":\"n\",\"id\":\"i\"}", "{\"id\":\"i\",\"note\":\"n\"}", NULL},
        {T(TestBase), "{\"id\":\"i\",\"Note\":\"n\"}", NULL, "Parameter 'Note' is unexpected"},
        {T(TestDerived),
         "{\"id\":\"i\",\"inner\":{\"id\":\"j\",\"inner\":{\"id\":\"k\"}},\"here\":1}",
         "{\"id\":\"i\",\"inner\":{\"id\":\"j\",\"inner\":{\"id\":\"k\"}},\"here\":1}", NULL},
        {T(TestDerived), "{\"id\":\"i\",\"gone\":1}", NULL, "Parameter 'gone' is unexpected"},
        {T(TestDerived), "{\"id\":\"i\",\"inner\":{\"id\":\"j\",\"inner\":{}}}", NULL,
         "Parameter 'inner.inner.id' is missing"},
        {T(TestDerived), "{\"id\":\"i\",\"many\":[{\"id\":\"j\"},{\"id\":\"k\",\"x\":1}]}", NULL,
         "Parameter 'many[1].x' is unexpected"},
        {T(TestDerived), "{\"id\":\"i\",\"many\":[{\"id\":\"j\",\"many\":[{\"id\":3}]}]}", NULL,
         TYPE_ERROR("many[0].many[0].id", "string")},
        {T(TestDerived), "{\"id\":\"i\",\"many\":[1]}", NULL, TYPE_ERROR("many[0]", "object")},
        {T(TestDerived), "{\"id\":\"i\",\"many\":{}}", NULL, TYPE_ERROR("many", "array")},
        {T(TestDerived), "{\"id\":\"i\",\"many\":null}", NULL, TYPE_ERROR("many", "array")},
        {T(TestDerived), "{\"id\":\"i\",\"names\":[\"a\",2]}", NULL,
         TYPE_ERROR("names[1]", "string")},
        /* a path names the place, a range the member alone */
        {T(TestDerived), "{\"id\":\"i\",\"numbers\":{\"u8\":300}}", NULL,
         "Parameter 'u8' expects uint8_t"},
        {T(TestDerived), "{\"id\":\"i\",\"numbers\":{\"u64\":1.5}}", NULL,
         "Parameter 'numbers.u64' expects uint64"},
        {T(TestDerived), "{\"id\":\"i\",\"sizes\":[0,18446744073709551615],\"names\":[\"\",\"b\"]}",
         "{\"id\":\"i\",\"names\":[\"\",\"b\"],\"sizes\":[0,18446744073709551615]}", NULL},
        {T(TestDerived), "{\"id\":\"i\",\"anything\":{\"a\":[1,{\"b\":null}]}}",
         "{\"id\":\"i\",\"anything\":{\"a\":[1,{\"b\":null}]}}", NULL},
        {T(TestBaseList), "[]", "[]", NULL},
        {T(TestBaseList), "[{\"id\":\"a\"},{\"id\":\"b\"}]", "[{\"id\":\"a\"},{\"id\":\"b\"}]",
         NULL},
        {T(strList), "[\"a\"]", "[\"a\"]", NULL},
    };

    check(cases, G_N_ELEMENTS(cases), false);
}

static void test_unions(void)
{
    static const Case cases[] = {
        {T(TestOuter), "{\"radius\":3,\"shape\":\"circle\",\"label\":\"l\",\"name\":\"n\"}",
         "{\"shape\":\"circle\",\"name\":\"n\",\"radius\":3,\"label\":\"l\"}", NULL},
        {T(TestOuter), "{\"shape\":\"none\"}", "{\"shape\":\"none\"}", NULL},
        {T(TestOuter), "{\"shape\":\"none\",\"radius\":1}", NULL,
         "Parameter 'radius' is unexpected"},
        {T(TestOuter), "{\"shape\":\"square\",\"side\":4}", "{\"shape\":\"square\",\"side\":4}",
         NULL},
        {T(TestOuter), "{\"shape\":\"square\",\"radius\":4}", NULL, "Parameter 'side' is missing"},
        {T(TestOuter), "{\"name\":\"n\"}", NULL, "Parameter 'shape' is missing"},
        {T(TestOuter), "{\"shape\":\"deep\",\"colour\":\"3d\",\"side\":5}",
         "{\"shape\":\"deep\",\"colour\":\"3d\",\"side\":5}", NULL},
        {T(TestOuter), "{\"shape\":\"deep\",\"colour\":\"blue\"}",
         "{\"shape\":\"deep\",\"colour\":\"blue\"}", NULL},
        {T(TestOuter), "{\"shape\":\"deep\",\"colour\":\"red\",\"label\":\"x\"}", NULL,
         "Parameter 'radius' is missing"},
        {T(TestHolder), "{\"outer\":{\"shape\":\"deep\",\"colour\":\"red\",\"radius\":\"x\"}}",
         NULL, TYPE_ERROR("outer.radius", "integer")},
    };

    check(cases, G_N_ELEMENTS(cases), false);
}

static void test_alternates(void)
{
    static const Case cases[] = {
        {T(TestHolder), "{\"any\":\"t\"}", "{\"any\":\"t\"}", NULL},
        {T(TestHolder), "{\"any\":null}", "{\"any\":null}", NULL},
        {T(TestHolder), "{\"any\":[1,2]}", "{\"any\":[1,2]}", NULL},
        {T(TestHolder), "{\"any\":[]}", "{\"any\":[]}", NULL},
        {T(TestHolder), "{\"any\":{\"id\":\"i\"}}", "{\"any\":{\"id\":\"i\"}}", NULL},
        {T(TestHolder), "{\"list\":[null,\"a\",{\"id\":\"i\"}]}",
         "{\"list\":[null,\"a\",{\"id\":\"i\"}]}", NULL},
        {T(TestHolder), "{\"any\":5}", NULL, TYPE_ERROR("any", "TestAny")},
        {T(TestHolder), "{\"any\":true}", NULL, TYPE_ERROR("any", "TestAny")},
        {T(TestHolder), "{\"any\":[1,\"x\"]}", NULL, TYPE_ERROR("any[1]", "integer")},
        {T(TestHolder), "{\"any\":{\"note\":\"i\"}}", NULL, "Parameter 'any.id' is missing"},
        {T(TestHolder), "{\"list\":[\"a\",7]}", NULL, TYPE_ERROR("null", "TestAny")},
        {T(TestHolder), "{\"scalar\":7}", "{\"scalar\":7}", NULL},
        {T(TestHolder), "{\"scalar\":false}", "{\"scalar\":false}", NULL},
        {T(TestHolder), "{\"scalar\":\"deep\"}", "{\"scalar\":\"deep\"}", NULL},
        {T(TestHolder), "{\"scalar\":\"deeper\"}", NULL,
         "Parameter 'scalar' does not accept value 'deeper'"},
        {T(TestHolder), "{\"scalar\":1.5}", NULL, TYPE_ERROR("scalar", "integer")},
        {T(TestHolder), "{\"scalar\":null}", NULL, TYPE_ERROR("scalar", "TestScalar")},
    };

    check(cases, G_N_ELEMENTS(cases), false);
}

static void test_keyval_scalars(void)
{
    static const Case cases[] = {
        {T(TestNumbers), "{\"i\":\"0x10\",\"u8\":\"255\",\"i8\":\"-3\"}",
         "{\"i8\":-3,\"i\":16,\"u8\":255}", NULL},
        {T(TestNumbers), "{\"i\":\"-9223372036854775808\"}", "{\"i\":-9223372036854775808}", NULL},
        {T(TestNumbers), "{\"i\":\"9223372036854775808\"}", NULL, "Parameter 'i' expects integer"},
        {T(TestNumbers), "{\"i\":\"1k\"}", NULL, "Parameter 'i' expects integer"},
        {T(TestNumbers), "{\"i\":\"\"}", NULL, "Parameter 'i' expects integer"},
        {T(TestNumbers), "{\"u8\":\"256\"}", NULL, "Parameter 'u8' expects uint8_t"},
        {T(TestNumbers), "{\"u32\":\"-1\"}", NULL, "Parameter 'u32' expects uint32_t"},
        {T(TestNumbers), "{\"u32\":\"x\"}", NULL, "Parameter 'u32' expects integer"},
        {T(TestNumbers), "{\"u64\":\"18446744073709551616\"}", NULL,
         "Parameter 'u64' expects integer"},
        {T(TestNumbers), "{\"i\":5,\"bool\":true}", "{\"i\":5,\"bool\":true}", NULL},
        {T(TestNumbers), "{\"size\":\"4k\"}", "{\"size\":4096}", NULL},
        {T(TestNumbers), "{\"size\":\"1.5M\"}", "{\"size\":1572864}", NULL},
        {T(TestNumbers), "{\"size\":\"7b\"}", "{\"size\":7}", NULL},
        {T(TestNumbers), "{\"size\":\"0x1000\"}", "{\"size\":4096}", NULL},
        {T(TestNumbers), "{\"size\":\"15E\"}", "{\"size\":17293822569102704640}", NULL},
        {T(TestNumbers), "{\"size\":\"16E\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"size\":\"15.99999999E\"}", "{\"size\":18446744062180336569}", NULL},
        {T(TestNumbers), "{\"size\":\"18446744073709551615\"}", "{\"size\":18446744073709551615}",
         NULL},
        {T(TestNumbers), "{\"size\":\"1.5\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"size\":\"-1\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"size\":\"k\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"size\":\"4kk\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"size\":\"0x\"}", NULL, "Parameter 'size' expects size"},
        {T(TestNumbers), "{\"number\":\"-0.25\"}", "{\"number\":-0.25}", NULL},
        {T(TestNumbers), "{\"number\":\"inf\"}", NULL, "Parameter 'number' expects number"},
        {T(TestNumbers), "{\"bool\":\"on\"}", "{\"bool\":true}", NULL},
        {T(TestNumbers), "{\"bool\":\"n\"}", "{\"bool\":false}", NULL},
        {T(TestNumbers), "{\"bool\":\"On\"}", NULL, "Parameter 'bool' expects 'on' or 'off'"},
        {T(TestNumbers), "{\"bool\":{\"x\":\"1\"}}", NULL, "Parameters 'bool.*' are unexpected"},
        {T(TestNumbers), "{\"size\":{\"0\":\"1\"}}", NULL, "Parameters 'size.*' are unexpected"},
        {T(TestNumbers), "{\"u8\":{\"x\":\"1\"}}", NULL, "Parameters 'u8.*' are unexpected"},
        {T(TestBase), "{\"id\":{\"x\":\"1\"}}", NULL, "Parameters 'id.*' are unexpected"},
    };

    check(cases, G_N_ELEMENTS(cases), true);
}

static void test_keyval_arrays(void)
{
    static const Case cases[] = {
        {T(TestDerived), "{\"id\":\"i\",\"names\":{\"1\":\"b\",\"0\":\"a\"}}",
         "{\"id\":\"i\",\"names\":[\"a\",\"b\"]}", NULL},
        {T(TestDerived), "{\"id\":\"i\",\"names\":[\"a\"]}", "{\"id\":\"i\",\"names\":[\"a\"]}",
         NULL},
        {T(TestDerived), "{\"id\":\"i\",\"names\":{\"1\":\"b\"}}", NULL,
         "Parameter 'names.0' missing"},
        {T(TestDerived), "{\"id\":\"i\",\"names\":{\"0\":\"b\",\"2\":\"b\"}}", NULL,
         "Parameter 'names.1' missing"},
        {T(TestDerived), "{\"id\":\"i\",\"names\":{\"0\":\"b\",\"x\":\"b\"}}", NULL,
         "Parameters 'names.*' used inconsistently"},
        {T(TestDerived), "{\"id\":\"i\",\"names\":\"b\"}", NULL, TYPE_ERROR("names", "array")},
        {T(TestDerived), "{\"id\":\"i\",\"many\":{\"0\":{\"id\":\"j\"},\"1\":{\"note\":\"n\"}}}",
         NULL, "Parameter 'many.1.id' is missing"},
        {T(TestDerived), "{\"id\":\"i\",\"inner\":{\"0\":\"j\"}}", NULL,
         TYPE_ERROR("inner", "object")},
        {T(TestDerived), "{\"id\":\"i\",\"inner\":\"j\"}", NULL, TYPE_ERROR("inner", "object")},
        {T(TestHolder), "{\"any\":{\"0\":\"1\",\"1\":\"2\"}}", "{\"any\":[1,2]}", NULL},
        {T(TestHolder), "{\"outer\":{\"0\":\"1\"}}", NULL, TYPE_ERROR("outer", "object")},
        {T(TestHolder), "{\"scalar\":{\"0\":\"1\"}}", NULL, TYPE_ERROR("scalar", "TestScalar")},
    };

    check(cases, G_N_ELEMENTS(cases), true);
}

/* As deep as the monitor lets a value be, on a stack as small as a coroutine's (which is larger
 * under sanitizers, as frames are). */
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LARGE_FRAMES
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LARGE_FRAMES
#endif
#ifdef LARGE_FRAMES
enum { DEPTH = 1020, STACK = 2 * CO_STACK_SIZE };
#else
enum { DEPTH = 1020, STACK = CO_STACK_SIZE };
#endif

static void *deep(void *opaque)
{
    g_autoptr(JsonObject) in = json_object_new_object(), out = NULL;
    g_autoptr(TestDerived) value = NULL, copy = NULL;
    g_autoptr(Error) err = NULL;
    g_autofree char *a = NULL, *b = NULL;

    (void)opaque;
    json_object_object_add(in, "id", json_object_new_string("x"));
    for (unsigned i = 0; i < DEPTH; i++) {
        struct json_object *o = json_object_new_object();

        json_object_object_add(o, "id", json_object_new_string("x"));
        json_object_object_add(o, "inner", in);
        in = o;
    }
    g_assert_true(qapi_parse_TestDerived(in, &value, &err));
    copy = qapi_copy_TestDerived(value);
    out = qapi_serialise_TestDerived(copy);
    a = qapi_json_print(in, false);
    b = qapi_json_print(out, false);
    g_assert_cmpstr(a, ==, b);
    return NULL;
}

static void test_deep(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    g_assert_cmpint(pthread_create(&thread, &attr, deep, NULL), ==, 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
}

static void test_c(void)
{
    g_autoptr(JsonObject) in = json("{\"any\":[4],\"scalar\":\"none\",\"outer\":{\"shape\":"
                                    "\"deep\",\"colour\":\"3d\",\"side\":9}}");
    g_autoptr(TestHolder) holder = NULL;
    g_autoptr(Error) err = NULL;

    g_assert_true(qapi_parse_TestHolder(in, &holder, &err));
    g_assert_cmpint(holder->any->type, ==, QAPI_KIND_ARRAY);
    g_assert_cmpint(holder->any->u.list->value, ==, 4);
    g_assert_null(holder->any->u.list->next);
    g_assert_cmpint(holder->scalar->type, ==, QAPI_KIND_STRING);
    g_assert_cmpint(holder->scalar->u.shape, ==, TEST_SHAPE_NONE);
    g_assert_cmpint(holder->outer->shape, ==, TEST_SHAPE_DEEP);
    g_assert_cmpint(holder->outer->u.deep.colour, ==, COLOUR_3D);
    g_assert_cmpint(holder->outer->u.deep.u.q_3d.side, ==, 9);
    g_assert_null(holder->outer->name);
    g_assert_null(holder->list);
    g_assert_cmpstr(qapi_enum_TestColour(COLOUR_DARK_GREEN), ==, "dark_green");
    g_assert_cmpint(qapi_enum_parse(&qapi_type_TestColour, "blue"), ==, COLOUR_BLUE);
    g_assert_cmpint(qapi_enum_parse(&qapi_type_TestColour, "ghost"), ==, -1);
    qapi_free_TestHolder(NULL);
    g_assert_null(qapi_copy_TestHolder(NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/parse/integers", test_integers);
    g_test_add_func("/qapi/parse/scalars", test_scalars);
    g_test_add_func("/qapi/parse/objects", test_objects);
    g_test_add_func("/qapi/parse/unions", test_unions);
    g_test_add_func("/qapi/parse/alternates", test_alternates);
    g_test_add_func("/qapi/parse/keyval-scalars", test_keyval_scalars);
    g_test_add_func("/qapi/parse/keyval-arrays", test_keyval_arrays);
    g_test_add_func("/qapi/parse/deep", test_deep);
    g_test_add_func("/qapi/parse/c", test_c);
    return g_test_run();
}
