/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The lexer of the JSON stream, and how tokens become values.
 *
 * The lexer is a state machine over bytes.  Tokens are collected until brackets and braces balance; then json-parser.c makes a value of
 * them.  A byte that can begin no token, or continue the present one, is a lexical error: what was collected is dropped and
 * the lexer starts anew, so that a client can force a fresh start with a control byte.
 */
#include "monitor/json-stream.h"
#include "json-token.h"
#include <string.h>

#define MAX_TOKEN_SIZE  (64u << 20)
#define MAX_TOKEN_COUNT (2u << 20)
#define MAX_NESTING     1024

typedef enum State { START, IN_STRING, IN_ESCAPE, IN_NUMBER, IN_KEYWORD, RECOVERY } State;

struct JsonStream {
    JsonStreamFn *fn;
    void *opaque;
    State state;
    char quote;
    GString *text; /* of the present token */
    GPtrArray *tokens;
    size_t tokens_size;
    int braces, brackets;
};

JsonStream *json_stream_new(JsonStreamFn *fn, void *opaque)
{
    JsonStream *s = g_new0(JsonStream, 1);

    s->fn = fn;
    s->opaque = opaque;
    s->text = g_string_new(NULL);
    s->tokens = g_ptr_array_new_with_free_func(json_token_free);
    return s;
}

void json_stream_free(JsonStream *s)
{
    if (s) {
        g_string_free(s->text, true);
        g_ptr_array_free(s->tokens, true);
        g_free(s);
    }
}

static void drop_tokens(JsonStream *s)
{
    g_ptr_array_set_size(s->tokens, 0);
    s->tokens_size = 0;
    s->braces = s->brackets = 0;
}

static void report(JsonStream *s, const char *fmt, const char *detail)
{
    g_autoptr(Error) err = NULL;

    if (detail) {
        error_set(&err, ERROR_INVALID, NULL, "json", "JSON parse error, %s '%s'", fmt, detail);
    } else {
        error_set(&err, ERROR_INVALID, NULL, "json", "%s", fmt);
    }
    drop_tokens(s);
    s->fn(s->opaque, NULL, err);
}

static void finish(JsonStream *s)
{
    g_autoptr(Error) err = NULL;
    struct json_object *value = NULL;
    bool ok = json_parse_tokens(s->tokens, &value, &err);

    drop_tokens(s);
    s->fn(s->opaque, ok ? value : NULL, err);
}

static void reset_text(JsonStream *s)
{
    /* A long token must not leave its memory behind. */
    if (s->text->allocated_len > 65536) {
        g_string_free(s->text, true);
        s->text = g_string_new(NULL);
    } else {
        g_string_truncate(s->text, 0);
    }
}

static void push_token(JsonStream *s, JsonTokenType type)
{
    s->tokens_size += s->text->len;
    g_ptr_array_add(s->tokens, json_token_new(type, s->text->str, s->text->len));
    reset_text(s);
    s->state = START;
    switch (type) {
    case JSON_TOKEN_LBRACE:
        s->braces++;
        break;
    case JSON_TOKEN_RBRACE:
        s->braces--;
        break;
    case JSON_TOKEN_LBRACKET:
        s->brackets++;
        break;
    case JSON_TOKEN_RBRACKET:
        s->brackets--;
        break;
    default:
        break;
    }
    if (s->tokens_size > MAX_TOKEN_SIZE) {
        report(s, "JSON token size limit exceeded", NULL);
    } else if (s->tokens->len > MAX_TOKEN_COUNT) {
        report(s, "JSON token count limit exceeded", NULL);
    } else if (s->braces + s->brackets > MAX_NESTING) {
        report(s, "JSON nesting depth limit exceeded", NULL);
    } else if (s->braces < 0 || s->brackets < 0 || (s->braces == 0 && s->brackets == 0)) {
        finish(s);
    }
}

static void lexical_error(JsonStream *s, char c)
{
    g_autofree char *text = NULL;

    g_string_append_c(s->text, c);
    text = g_utf8_make_valid(s->text->str, MIN(s->text->len, 100));
    reset_text(s);
    s->state = START;
    report(s, "stray", text);
}

static const char punctuation[] = "{}[]:,";
static const JsonTokenType punctuation_types[] = {JSON_TOKEN_LBRACE,   JSON_TOKEN_RBRACE,
                                                  JSON_TOKEN_LBRACKET, JSON_TOKEN_RBRACKET,
                                                  JSON_TOKEN_COLON,    JSON_TOKEN_COMMA};

/* A byte outside of any token. */
static void start_token(JsonStream *s, char c)
{
    const char *p = c ? strchr(punctuation, c) : NULL;

    if (p) {
        g_string_append_c(s->text, c);
        push_token(s, punctuation_types[p - punctuation]);
    } else if (c == '"' || c == '\'') {
        s->quote = c;
        s->state = IN_STRING;
        g_string_append_c(s->text, c);
    } else if (c == '-' || g_ascii_isdigit(c)) {
        s->state = IN_NUMBER;
        g_string_append_c(s->text, c);
    } else if (g_ascii_islower(c)) {
        s->state = IN_KEYWORD;
        g_string_append_c(s->text, c);
    } else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
        lexical_error(s, c);
    }
}

/* May `c` come next in a number that reads `text` so far?  JSON's grammar: -?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)? */
static bool number_goes_on(const GString *text, char c)
{
    char last = text->str[text->len - 1];
    bool fraction = memchr(text->str, '.', text->len),
         exponent = memchr(text->str, 'e', text->len) || memchr(text->str, 'E', text->len);
    bool zero = strcmp(text->str, "0") == 0 || strcmp(text->str, "-0") == 0;

    if (g_ascii_isdigit(c)) {
        return !zero;
    }
    switch (c) {
    case '.':
        return !fraction && !exponent && g_ascii_isdigit(last);
    case 'e':
    case 'E':
        return !exponent && g_ascii_isdigit(last);
    case '+':
    case '-':
        return last == 'e' || last == 'E';
    default:
        return false;
    }
}

static void end_number(JsonStream *s)
{
    bool whole = !strpbrk(s->text->str, ".eE");

    push_token(s, whole ? JSON_TOKEN_INTEGER : JSON_TOKEN_FLOAT);
}

static void feed(JsonStream *s, char c)
{
again:
    switch (s->state) {
    case START:
        start_token(s, c);
        return;
    case IN_STRING:
        if ((unsigned char)c < 0x20 || (unsigned char)c >= 0xFE) {
            lexical_error(s, c);
            return;
        }
        g_string_append_c(s->text, c);
        if (c == '\\') {
            s->state = IN_ESCAPE;
        } else if (c == s->quote) {
            push_token(s, JSON_TOKEN_STRING);
            return;
        }
        break;
    case IN_ESCAPE:
        if ((unsigned char)c < 0x20 || (unsigned char)c >= 0xFE) {
            lexical_error(s, c);
            return;
        }
        g_string_append_c(s->text, c);
        s->state = IN_STRING;
        break;
    case IN_NUMBER:
        if (number_goes_on(s->text, c)) {
            g_string_append_c(s->text, c);
            break;
        }
        if (!g_ascii_isdigit(s->text->str[s->text->len - 1])) {
            lexical_error(s, c);
            return;
        }
        end_number(s);
        goto again;
    case IN_KEYWORD:
        if (g_ascii_islower(c)) {
            g_string_append_c(s->text, c);
            break;
        }
        push_token(s, JSON_TOKEN_KEYWORD);
        goto again;
    case RECOVERY:
        /* Until something that a client sends to begin anew. */
        if (c == '{' || c == '[' || c == '\n' || (unsigned char)c < 0x20 ||
            (unsigned char)c >= 0xFE) {
            s->state = START;
            goto again;
        }
        return;
    }
    if (s->tokens_size + s->text->len > MAX_TOKEN_SIZE) {
        reset_text(s);
        s->state = RECOVERY;
        report(s, "JSON token size limit exceeded", NULL);
    }
}

void json_stream_feed(JsonStream *s, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        feed(s, data[i]);
    }
}

void json_stream_end(JsonStream *s)
{
    switch (s->state) {
    case IN_NUMBER:
    case IN_KEYWORD:
        feed(s, '\n');
        break;
    case IN_STRING:
    case IN_ESCAPE:
        reset_text(s);
        s->state = START;
        report(s, "JSON parse error, premature EOI", NULL);
        return;
    default:
        break;
    }
    if (s->tokens->len > 0) {
        finish(s);
    }
}

typedef struct Single {
    struct json_object *value;
    Error *err;
    unsigned count;
} Single;

static void take_single(void *opaque, struct json_object *value, const Error *err)
{
    Single *one = opaque;

    if (one->count++ == 0) {
        one->value = value;
        one->err = err ? error_copy(err) : NULL;
    } else {
        json_object_put(value);
    }
}

bool json_parse_text(const char *text, struct json_object **ret_value, Error **errp)
{
    Single one = {0};
    g_autoptr(JsonStream) s = json_stream_new(take_single, &one);

    json_stream_feed(s, text, strlen(text));
    json_stream_end(s);
    if (one.count == 1 && !one.err) {
        *ret_value = one.value;
        return true;
    }
    json_object_put(one.value);
    if (one.err) {
        error_move(errp, &one.err);
    } else {
        error_set(errp, ERROR_INVALID, NULL, "json", "JSON parse error, expecting value");
    }
    return false;
}
