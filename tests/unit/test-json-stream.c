/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The JSON stream: what comes out for what is fed, however it is cut into pieces; limits; recovery.
 *
 * A case is an input and the outcomes expected, separated by blanks: a value as json-c prints it, `null`, or `!` and the error
 * behind "JSON parse error, " (blanks as `_`; `!!`: the whole text).
 */
#include "monitor/json-stream.h"
#include <string.h>

/* ---- collecting outcomes ---- */

static void collect(void *opaque, struct json_object *value, const Error *err)
{
    static const char prefix[] = "JSON parse error, ";
    GString *s = opaque;
    g_autofree char *text = NULL;

    if (!err) {
        text = g_strdup(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                                  JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(value);
    } else if (g_str_has_prefix(err->message, prefix)) {
        g_assert_null(value);
        text = g_strconcat("!", err->message + strlen(prefix), NULL);
    } else {
        g_assert_null(value);
        text = g_strconcat("!!", err->message, NULL);
    }
    g_strdelimit(text, " ", '_');
    g_string_append_printf(s, "%s%s", s->len ? " " : "", text);
}

/* Outcomes of an input that is fed in pieces of that many bytes. */
static char *outcomes(const char *input, size_t len, size_t piece)
{
    GString *out = g_string_new(NULL);
    g_autoptr(JsonStream) s = json_stream_new(collect, out);

    for (size_t i = 0; i < len; i += piece) {
        json_stream_feed(s, input + i, MIN(piece, len - i));
    }
    return g_string_free(out, false);
}

static void check_len(const char *input, size_t len, const char *expected)
{
    g_autofree char *whole = outcomes(input, len, MAX(len, 1)), *bytes = outcomes(input, len, 1),
                    *threes = outcomes(input, len, 3);

    g_assert_cmpstr(whole, ==, expected);
    g_assert_cmpstr(bytes, ==, expected);
    g_assert_cmpstr(threes, ==, expected);
}

static void check(const char *input, const char *expected)
{
    check_len(input, strlen(input), expected);
}

/* ---- values ---- */

static void test_values(void)
{
    check("{}", "{}");
    check("[]", "[]");
    check("{\"a\":1}", "{\"a\":1}");
    check("{'a':'b'}", "{\"a\":\"b\"}");
    check(" \t\r\n{ \"a\" : [ 1 , true , null ] } ", "{\"a\":[1,true,null]}");
    check("{}{}[]", "{} {} []");
    check("\"a\"'b'", "\"a\" \"b\"");
    check("null true false ", "null true false");
    check("{}\n\n{\"a\":{\"b\":[[],{}]}}", "{} {\"a\":{\"b\":[[],{}]}}");
    check("", "");
    check(" \r\n\t", "");
}

static void test_incomplete(void)
{
    check("{", "");
    check("{\"a\":1", "");
    check("\"abc", "");
    check("12", ""); /* more digits may follow */
    check("tru", "");
    check("12 ", "12");
}

static void test_numbers(void)
{
    check("0 -0 7 -7 10 ", "0 0 7 -7 10");
    check("9223372036854775807 9223372036854775808 18446744073709551615 ",
          "9223372036854775807 9223372036854775808 18446744073709551615");
    check("-9223372036854775808 ", "-9223372036854775808");
    check("[1.5,-0.25,1e2,1E+2,1e-2]", "[1.5,-0.25,100.0,100.0,0.01]");
    check("[1,2]", "[1,2]");
    check("1{}", "1 {}");
    check("01 ", "!stray_'01'");
    check("-01 ", "!stray_'-01'");
    check("- ", "!stray_'-_'");
    check("-a\n", "!stray_'-a'");
    check("1. ", "!stray_'1._'");
    check(".5 ", "!stray_'.'");
    check("1.5.5\n", "1.5 !stray_'.'");
    check("1e+\n", "!stray_'1e+\n'");
    check("1e999 [-1e999, 1]\n", "!number_out_of_range_'1e999' !number_out_of_range_'-1e999'");
    check("1e5e5\n", "100000.0 !invalid_keyword_'e' 5");
    check("+1\n", "!stray_'+'");
    check("1-1\n", "1 -1");
}

/* Integers that fit no type are numbers all the same. */
static void test_big_integers(void)
{
    g_autoptr(Error) err = NULL;
    struct json_object *v;

    g_assert_true(json_parse_text("18446744073709551616", &v, &err));
    g_assert_true(json_object_is_type(v, json_type_double));
    g_assert_cmpfloat(json_object_get_double(v), ==, 18446744073709551616.0);
    json_object_put(v);
    g_assert_true(json_parse_text("-9223372036854775809", &v, &err));
    g_assert_true(json_object_is_type(v, json_type_double));
    json_object_put(v);
    g_assert_true(json_parse_text("18446744073709551615", &v, &err));
    g_assert_cmpuint(json_object_get_uint64(v), ==, UINT64_MAX);
    json_object_put(v);
}

static void test_strings(void)
{
    check("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\'\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t'\"");
    check("'it\\'s \"so\"'", "\"it's_\\\"so\\\"\"");
    check("\"\\u00e9\\u20ac\\ud83d\\ude00\"", "\"\303\251\342\202\254\360\237\230\200\"");
    check("\"\303\251\"", "\"\303\251\"");
    check("\"\\x\"", "!invalid_escape_sequence_in_string");
    check("\"\\u0000\"", "!\\u0000_is_not_a_valid_Unicode_character");
    check("\"\\uZZZZ\"", "!\\uZZZZ_is_not_a_valid_Unicode_character");
    check("\"\\u12\"", "!\\u12\"_is_not_a_valid_Unicode_character");
    check("\"\\udc00\"", "!\\udc00_is_not_a_valid_Unicode_character");
    check("\"\\ud800\"", "!\\ud800_is_not_a_valid_Unicode_character");
    check("\"\\ud800\\u0041\"", "!\\ud800_is_not_a_valid_Unicode_character");
    check("\"\\ud83dx\"", "!\\ud83d_is_not_a_valid_Unicode_character");
    check("\"\\ufffe\"", "!\\ufffe_is_not_a_valid_Unicode_character");
    check("\"\\ufdd0\"", "!\\ufdd0_is_not_a_valid_Unicode_character");
    /* not UTF-8: a lone byte, a cut sequence, an overlong form, half a pair, beyond Unicode, no character */
    check("\"\303(\"", "!invalid_UTF-8_sequence_in_string");
    check("\"\303\"", "!invalid_UTF-8_sequence_in_string");
    check("\"\300\200\"", "!invalid_UTF-8_sequence_in_string");
    check("\"\355\240\200\"", "!invalid_UTF-8_sequence_in_string");
    check("\"\364\220\200\200\"", "!invalid_UTF-8_sequence_in_string");
    check("\"\357\277\277\"", "!invalid_UTF-8_sequence_in_string");
    check("{\"\303(\":1}", "!invalid_UTF-8_sequence_in_string");
}

/* ---- what is no value ---- */

static void test_syntax(void)
{
    check("{]", "!expecting_value");
    check("}", "!expecting_value");
    check("]", "!expecting_value");
    check(",", "!expecting_value");
    check(":", "!expecting_value");
    check("[,]", "!expecting_value");
    check("[1,]", "!expecting_value");
    check("[1 2]", "!expected_separator_in_list");
    check("{\"a\" \"b\"}", "!missing_:_in_object_pair");
    check("{\"a\"}", "!missing_:_in_object_pair");
    check("{\"a\":}", "!expecting_value");
    check("{\"a\":1,}", "!expecting_value");
    check("{\"a\":1 \"b\":2}", "!expected_separator_in_dict");
    check("{1:2}", "!key_is_not_a_string_in_object");
    check("{null:2}", "!key_is_not_a_string_in_object");
    check("{[]:2}", "!key_is_not_a_string_in_object");
    check("{\"a\":1,\"a\":2}", "!duplicate_key");
    check("{\"a\":1,\"\\u0061\":2}", "!duplicate_key");
    check("{\"a\":{\"b\":1,\"b\":1}}", "!duplicate_key");
    check("{\"a\":nul}", "!invalid_keyword_'nul'");
    check("truefalse ", "!invalid_keyword_'truefalse'");
    check("{\"a\":1}}{}", "{\"a\":1} !expecting_value {}");
    check("[}", "!expecting_value");
}

/* A line of rubbish is one error; a bracket or a control character begins anew. */
static void test_recovery(void)
{
    check("%%p\n{}", "!stray_'%' {}");
    check("HELLO world 12 \"x\"\n{}", "!stray_'H' {}");
    check("@@ {}", "!stray_'@' {}");
    check("@@,", "!stray_'@' !expecting_value");
    check("@\001@@\n", "!stray_'@' !stray_'\001'");
    check("{\001{}", "!stray_'\001' {}");
    check("{\"a\":1,\377{}", "!stray_'\357\277\275' {}");
    check("\376\376{}", "!stray_'\357\277\275' !stray_'\357\277\275' {}");
    check("\357\273\277{}", "!stray_'\357\277\275' {}"); /* a byte order mark */
    check("{\"a\":\"b\n{}", "!stray_'\"b\n' {}");
    check("\"a\\\n{}", "!stray_'\"a\\\n' {}");
    check("\"bad \377\n{}", "!stray_'\"bad_\357\277\275' {}");
    check("\177\n{}", "!stray_'\177' {}");
    check_len("\0\0{}", 4, "!stray_'' !stray_'' {}");
    check_len("{\"x\0y\"}{}", 9, "!stray_'\"x' !expecting_value {}");
}

/* ---- limits ---- */

static char *nested(const char *open, const char *close, unsigned depth)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < depth; i++) {
        g_string_append(s, open);
    }
    g_string_append_c(s, '1');
    for (unsigned i = 0; i < depth; i++) {
        g_string_append(s, close);
    }
    return g_string_free(s, false);
}

static void test_depth(void)
{
    static const char *const pairs[][2] = {{"[", "]"}, {"{\"a\":", "}"}, {"[{\"a\":", "}]"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(pairs); i++) {
        unsigned levels = i == 2 ? 2 : 1;
        g_autofree char *deep = nested(pairs[i][0], pairs[i][1], 1024 / levels),
                        *deeper = nested(pairs[i][0], pairs[i][1], 1024 / levels + 1),
                        *two = g_strconcat(deeper, deeper, "{}", NULL),
                        *unclosed = g_strndup(deeper, strlen(pairs[i][0]) * 1025),
                        *line = g_strconcat(unclosed, "\n{}", NULL);
        g_autofree char *printed = outcomes(deep, strlen(deep), 7);

        g_assert_cmpstr(printed, ==, deep);
        check(two, "!!JSON_nesting_depth_limit_exceeded !!JSON_nesting_depth_limit_exceeded {}");
        check(line, "!!JSON_nesting_depth_limit_exceeded {}");
    }
}

/* Feeds n times the same text. */
static void feed_often(JsonStream *s, const char *text, unsigned n)
{
    g_autoptr(GString) block = g_string_new(NULL);
    size_t len = strlen(text);
    unsigned per_block = 65536 / len;

    for (unsigned i = 0; i < per_block; i++) {
        g_string_append_len(block, text, len);
    }
    for (; n >= per_block; n -= per_block) {
        json_stream_feed(s, block->str, block->len);
    }
    json_stream_feed(s, block->str, n * len);
}

typedef struct Flood {
    const char *head, *unit;
    unsigned n;
    const char *tail, *expected;
} Flood;

#define MIB (1024u * 1024)

/* Whatever is sent without end is one error, and the next line is read as ever. */
static void test_floods(void)
{
    static const Flood floods[] = {
        {"", "x", 70 * MIB, "\n{}", "!!JSON_token_size_limit_exceeded {}"},
        {"", "1", 70 * MIB, "\n{}", "!!JSON_token_size_limit_exceeded {}"},
        {"\"", "x", 70 * MIB, "\"\n{}", "!!JSON_token_size_limit_exceeded {}"},
        {"\"", "\\n", 35 * MIB, "\n{}", "!!JSON_token_size_limit_exceeded {}"},
        {"{\"id\":\"", "{", 70 * MIB, "\"}{}", "!!JSON_token_size_limit_exceeded {}"},
        {"[", "\"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ\",", 2 * MIB,
         "1]{}", "!!JSON_token_size_limit_exceeded {}"},
        {"[", "1,", 3 * MIB, "1]{}", "!!JSON_token_count_limit_exceeded {}"},
        {"[", "[],", 3 * MIB, "[]]{}", "!!JSON_token_count_limit_exceeded {}"},
        {"", "{", 10 * MIB, "\n{}", "!!JSON_nesting_depth_limit_exceeded {}"},
        {"", "{\"a\":", 4 * MIB, "\n{}", "!!JSON_nesting_depth_limit_exceeded {}"},
        {"", "@", 10 * MIB, "\n{}", "!stray_'@' {}"},
        {"{\"a\":\"x", "x", 70 * MIB, "\377{}",
         "!!JSON_token_size_limit_exceeded !stray_'\357\277\275' {}"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(floods); i++) {
        const Flood *f = &floods[i];
        g_autoptr(GString) out = g_string_new(NULL);
        g_autoptr(JsonStream) s = json_stream_new(collect, out);

        json_stream_feed(s, f->head, strlen(f->head));
        feed_often(s, f->unit, f->n);
        json_stream_feed(s, f->tail, strlen(f->tail));
        g_assert_cmpstr(out->str, ==, f->expected);
    }
}

/* Just below the limits all is well. */
static void test_large(void)
{
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(JsonStream) s = json_stream_new(collect, out);

    json_stream_feed(s, "\"", 1);
    feed_often(s, "x", 16 * MIB);
    json_stream_feed(s, "\"", 1);
    g_assert_cmpuint(out->len, ==, 16 * MIB + 2);
    g_string_truncate(out, 0);
    json_stream_feed(s, "[", 1);
    feed_often(s, "1,", 500000);
    json_stream_feed(s, "1]", 2);
    g_assert_cmpuint(out->len, ==, 1000003);
}

/* ---- the end; one value in a string ---- */

static void check_end(const char *input, const char *expected)
{
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(JsonStream) s = json_stream_new(collect, out);

    json_stream_feed(s, input, strlen(input));
    json_stream_end(s);
    g_assert_cmpstr(out->str, ==, expected);
    /* and it can go on */
    json_stream_feed(s, "{}", 2);
    g_assert_true(g_str_has_suffix(out->str, "{}"));
}

static void test_end(void)
{
    check_end("12", "12");
    check_end("true", "true");
    check_end("{\"a\":1", "!premature_EOI");
    check_end("[", "!premature_EOI");
    check_end("{", "!premature_EOI");
    check_end("{\"a\"", "!premature_EOI");
    check_end("{\"a\":", "!premature_EOI");
    check_end("[1", "!premature_EOI");
    check_end("[1,", "!premature_EOI");
    check_end("\"abc", "!premature_EOI");
    check_end("\"abc\\", "!premature_EOI");
    check_end("-", "!stray_'-\n'");
    check_end("@", "!stray_'@'");
    check_end("", "");
}

static void check_text(const char *text, const char *value, const char *message)
{
    g_autoptr(Error) err = NULL;
    struct json_object *v = NULL;

    if (json_parse_text(text, &v, &err)) {
        g_assert_cmpstr(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN |
                                                              JSON_C_TO_STRING_NOSLASHESCAPE),
                        ==, value);
        json_object_put(v);
    } else {
        g_assert_cmpstr(err->message, ==, message);
        g_assert_null(value);
    }
}

static void test_text(void)
{
    check_text("{\"a\":[1]}", "{\"a\":[1]}", NULL);
    check_text(" 5", "5", NULL);
    check_text("null", "null", NULL);
    check_text("{\"a\":1", NULL, "JSON parse error, premature EOI");
    check_text("{bad", NULL, "JSON parse error, invalid keyword 'bad'");
    check_text("", NULL, "JSON parse error, expecting value");
    check_text("{}{}", NULL, "JSON parse error, expecting value");
    check_text("{}@", NULL, "JSON parse error, expecting value");
    check_text("@{}", NULL, "JSON parse error, stray '@'");
}

/* Freed in the middle of everything: the sanitizers judge. */
static void test_freed_early(void)
{
    static const char *const inputs[] = {"{\"a\":[1,{\"b\":\"cd", "\"x\\", "12.", "@@",
                                         "[[[[\"a\""};

    for (unsigned i = 0; i < G_N_ELEMENTS(inputs); i++) {
        g_autofree char *out = outcomes(inputs[i], strlen(inputs[i]), 2);

        g_assert_true(out[0] == '\0' || out[0] == '!');
    }
    json_stream_free(NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json-stream/values", test_values);
    g_test_add_func("/json-stream/incomplete", test_incomplete);
    g_test_add_func("/json-stream/numbers", test_numbers);
    g_test_add_func("/json-stream/big-integers", test_big_integers);
    g_test_add_func("/json-stream/strings", test_strings);
    g_test_add_func("/json-stream/syntax", test_syntax);
    g_test_add_func("/json-stream/recovery", test_recovery);
    g_test_add_func("/json-stream/depth", test_depth);
    g_test_add_func("/json-stream/floods", test_floods);
    g_test_add_func("/json-stream/large", test_large);
    g_test_add_func("/json-stream/end", test_end);
    g_test_add_func("/json-stream/text", test_text);
    g_test_add_func("/json-stream/freed-early", test_freed_early);
    return g_test_run();
}
