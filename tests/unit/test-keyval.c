/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Option arguments: dotted keys and JSON.
 */
#include "monitor/keyval.h"
#include <string.h>

static void good(const char *text, const char *implied, const char *expected)
{
    g_autoptr(Error) err = NULL;
    struct json_object *o = keyval_parse(text, implied, &err);

    g_assert_null(err);
    g_assert_cmpstr(
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
        ==, expected);
    json_object_put(o);
}

static void bad(const char *text, const char *implied, const char *message)
{
    g_autoptr(Error) err = NULL;

    g_assert_null(keyval_parse(text, implied, &err));
    g_assert_cmpstr(err->message, ==, message);
}

static void test_flat(void)
{
    good("", NULL, "{}");
    good("", "driver", "{}");
    good("a=1", NULL, "{\"a\":\"1\"}");
    good("a=1,b=x y,c=", NULL, "{\"a\":\"1\",\"b\":\"x y\",\"c\":\"\"}");
    good("a=1,", NULL, "{\"a\":\"1\"}");
    good("a=b=c", NULL, "{\"a\":\"b=c\"}");
    good("node-name=n,_x=1,a_b-C9=2", NULL, "{\"node-name\":\"n\",\"_x\":\"1\",\"a_b-C9\":\"2\"}");
    good("a=1,a=2", NULL, "{\"a\":\"2\"}"); /* the last counts */
    good("a=\303\251", NULL, "{\"a\":\"\303\251\"}");
}

static void test_implied(void)
{
    good("file", "driver", "{\"driver\":\"file\"}");
    good("file,a=1", "driver", "{\"driver\":\"file\",\"a\":\"1\"}");
    good("driver=file,a=1", "driver", "{\"driver\":\"file\",\"a\":\"1\"}");
    good("a=1", "driver", "{\"a\":\"1\"}");
    good("a,driver=b", "driver", "{\"driver\":\"b\"}");
    good("x/y z", "path", "{\"path\":\"x/y z\"}");
    bad("a=1,file", "driver", "Expected '=' after parameter 'file'");
    bad("file,x", "driver", "Expected '=' after parameter 'x'");
    bad("file", NULL, "Expected '=' after parameter 'file'");
    bad(",", "driver", "Invalid parameter ''");
    bad("null,,co", "driver", "Invalid parameter ''");
    bad("=x", "driver", "Invalid parameter ''");
}

static void test_commas(void)
{
    good("a=x,,y", NULL, "{\"a\":\"x,y\"}");
    good("a=x,,,b=1", NULL, "{\"a\":\"x,\",\"b\":\"1\"}");
    good("a=,,,,", NULL, "{\"a\":\",,\"}");
    good("a=,,", NULL, "{\"a\":\",\"}");
    bad("a=1,,b=2,c", NULL, "Expected '=' after parameter 'c'");
    bad("a=1,=2", NULL, "Invalid parameter ''");
}

static void test_nested(void)
{
    good("a.b=1,a.c=2", NULL, "{\"a\":{\"b\":\"1\",\"c\":\"2\"}}");
    good("a.b.c.d=1", NULL, "{\"a\":{\"b\":{\"c\":{\"d\":\"1\"}}}}");
    good("x=0,a.b=1,y=2,a.c=3", NULL, "{\"x\":\"0\",\"a\":{\"b\":\"1\",\"c\":\"3\"},\"y\":\"2\"}");
    good("l.0=a,l.1=b", NULL, "{\"l\":{\"0\":\"a\",\"1\":\"b\"}}");
    good("file.driver=file,file.filename=a,,b.qcow2", NULL,
         "{\"file\":{\"driver\":\"file\",\"filename\":\"a,b.qcow2\"}}");
    good("a.b=1,a.b=2", NULL, "{\"a\":{\"b\":\"2\"}}");
    bad("a=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently");
    bad("a.b=1,a=2", NULL, "Parameters 'a.*' used inconsistently");
    bad("x.a=1,x.a.b=2", NULL, "Parameters 'x.a.*' used inconsistently");
    bad("x.a.b=1,x.a=2", NULL, "Parameters 'x.a.*' used inconsistently");
}

static void test_bad_keys(void)
{
    static const char *const keys[] = {".",  "..",  "a.",  ".a",  "a..b", "1a",
                                       "-a", "a b", "a.-", "a!b", "a.1b", "a.1234567890"};
    g_autofree char *longest = g_strnfill(127, 'k'), *too_long = g_strnfill(128, 'k'),
                    *fits = g_strconcat(longest, "=1", NULL),
                    *does_not = g_strconcat(too_long, "=1", NULL);
    g_autoptr(Error) err = NULL;
    struct json_object *o;

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *text = g_strconcat(keys[i], "=1", NULL),
                        *message = g_strdup_printf("Invalid parameter '%s'", keys[i]);

        bad(text, NULL, message);
        bad(text, "implied", message);
    }
    o = keyval_parse(fits, NULL, &err);
    g_assert_nonnull(o);
    json_object_put(o);
    g_assert_null(keyval_parse(does_not, NULL, &err));
    g_assert_nonnull(err);
}

static void test_not_utf8(void)
{
    bad("a=\303(", NULL, "Parameter 'a' is not valid UTF-8");
    bad("x\377y=1", NULL, "Invalid parameter 'x\357\277\275y'");
    bad("a\377", NULL, "Invalid parameter 'a\357\277\275'");
    bad("\377", "driver", "Parameter 'driver' is not valid UTF-8");
}

/* No number of levels is too many, as long as the stack bears what prints and frees them. */
static void test_deep(void)
{
    GString *text = g_string_new("a");
    g_autoptr(Error) err = NULL;
    struct json_object *o;

    for (unsigned i = 0; i < 1000; i++) {
        g_string_append(text, ".a");
    }
    g_string_append(text, "=1");
    o = keyval_parse(text->str, NULL, &err);
    g_assert_nonnull(o);
    json_object_put(o);
    g_string_free(text, true);
}

static void check_option(const char *text, bool keyval, const char *expected, const char *message)
{
    g_autoptr(Error) err = NULL;
    bool is_keyval = !keyval;
    struct json_object *o = option_parse(text, "driver", &is_keyval, &err);

    if (message) {
        g_assert_null(o);
        g_assert_cmpstr(err->message, ==, message);
        return;
    }
    g_assert_null(err);
    g_assert_true(is_keyval == keyval);
    g_assert_cmpstr(
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
        ==, expected);
    json_object_put(o);
}

static void test_json(void)
{
    check_option("file,a=1", true, "{\"driver\":\"file\",\"a\":\"1\"}", NULL);
    check_option("{\"driver\":\"file\",\"a\":1}", false, "{\"driver\":\"file\",\"a\":1}", NULL);
    check_option("{'driver':'file'}", false, "{\"driver\":\"file\"}", NULL);
    check_option("{}", false, "{}", NULL);
    check_option("{", false, NULL, "JSON parse error, premature EOI");
    check_option("{\"a\":1}x", false, NULL, "JSON parse error, expecting value");
    check_option("{\"a\":1,\"a\":2}", false, NULL, "JSON parse error, duplicate key");
    check_option(" {}", true, "{\"driver\":\" {}\"}", NULL); /* only a brace at the start is JSON */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/keyval/flat", test_flat);
    g_test_add_func("/keyval/implied", test_implied);
    g_test_add_func("/keyval/commas", test_commas);
    g_test_add_func("/keyval/nested", test_nested);
    g_test_add_func("/keyval/bad-keys", test_bad_keys);
    g_test_add_func("/keyval/not-utf8", test_not_utf8);
    g_test_add_func("/keyval/deep", test_deep);
    g_test_add_func("/keyval/json", test_json);
    return g_test_run();
}
