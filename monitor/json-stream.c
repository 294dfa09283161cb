/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The lexer of the JSON stream, and how tokens become values.
 *
 * The lexer is a state machine over bytes.  Tokens are collected until brackets and braces balance; then json-parser.c makes a value of
 * them.
 *
 * A byte that can begin no token, or continue the present one, is a lexical error: what was collected is dropped, and what follows is
 * skipped up to the next byte with which a client can begin anew (a bracket, brace, colon or comma, a control character, 0xFE or 0xFF),
 * so that a line of rubbish is one error.
 *
 * What exceeds a limit is one error too: the rest of the value is read but not kept ("discarding"), until its brackets balance or
 * its line ends, whichever comes first.  So neither the memory nor the number of errors depends on what a client sends.
 */
#include "monitor/json-stream.h"
#include "json-token.h"
#include <string.h>

#define MAX_TOKEN_SIZE  (64u << 20)
#define MAX_TOKEN_COUNT (2u << 20)
#define MAX_NESTING     1024

/* The states of numbers follow JSON's grammar: -?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)? */
typedef enum State {
    START,
    IN_STRING,
    IN_ESCAPE,
    IN_KEYWORD,
    AFTER_MINUS,
    AFTER_ZERO,
    IN_DIGITS,
    AFTER_POINT,
    IN_FRACTION,
    AFTER_E,
    AFTER_E_SIGN,
    IN_EXPONENT,
    RECOVERY,
} State;

struct JsonStream {
    JsonStreamFn *fn;
    void *opaque;
    State state;
    char quote;
    GString *text; /* of the present token */
    GPtrArray *tokens;
    size_t tokens_size;
    gint64 braces, brackets;
    bool discarding;
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

static void report(JsonStream *s, Error *err)
{
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

/* Counts brackets; false when the value is complete, or can be none. */
static bool nest(JsonStream *s, JsonTokenType type)
{
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
    return s->braces >= 0 && s->brackets >= 0 && (s->braces > 0 || s->brackets > 0);
}

static void limit_exceeded(JsonStream *s, const char *what)
{
    g_autoptr(Error) err = NULL;
    gint64 braces = s->braces, brackets = s->brackets;

    error_set(&err, ERROR_LIMIT, NULL, "json", "JSON %s limit exceeded", what);
    reset_text(s);
    report(s, err);
    s->braces = braces;
    s->brackets = brackets;
    s->discarding = true;
}

static void end_discarding(JsonStream *s)
{
    s->discarding = false;
    s->braces = s->brackets = 0;
}

static void keep(JsonStream *s, char c)
{
    if (s->discarding) {
        return;
    }
    g_string_append_c(s->text, c);
    if (s->tokens_size + s->text->len > MAX_TOKEN_SIZE) {
        limit_exceeded(s, "token size");
    }
}

static void push_token(JsonStream *s, JsonTokenType type)
{
    bool goes_on = nest(s, type);

    s->state = START;
    if (s->discarding) {
        if (!goes_on) {
            end_discarding(s);
        }
        return;
    }
    s->tokens_size += s->text->len;
    g_ptr_array_add(s->tokens, json_token_new(type, s->text->str, s->text->len));
    reset_text(s);
    if (s->tokens->len > MAX_TOKEN_COUNT) {
        limit_exceeded(s, "token count");
    } else if (s->braces + s->brackets > MAX_NESTING) {
        limit_exceeded(s, "nesting depth");
    } else if (!goes_on) {
        finish(s);
    }
}

static void lexical_error(JsonStream *s, char c)
{
    g_autoptr(Error) err = NULL;
    g_autofree char *text = NULL;

    if (s->discarding && c == '\n') {
        /* the end of a line whose error was told */
        end_discarding(s);
        s->state = START;
        return;
    }
    end_discarding(s);
    g_string_append_c(s->text, c);
    /* as far as it is text: a zero byte ends it */
    text = g_utf8_make_valid(s->text->str, MIN(strlen(s->text->str), 100));
    reset_text(s);
    s->state = RECOVERY;
    error_set(&err, ERROR_INVALID, NULL, "json", "JSON parse error, stray '%s'", text);
    report(s, err);
}

static const char punctuation[] = "{}[]:,";
static const JsonTokenType punctuation_types[] = {JSON_TOKEN_LBRACE,   JSON_TOKEN_RBRACE,
                                                  JSON_TOKEN_LBRACKET, JSON_TOKEN_RBRACKET,
                                                  JSON_TOKEN_COLON,    JSON_TOKEN_COMMA};

static const char *find_punctuation(char c)
{
    return c ? strchr(punctuation, c) : NULL;
}

/* A byte that never is part of text. */
static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || (unsigned char)c >= 0xFE;
}

/* A byte outside of any token. */
static void start_token(JsonStream *s, char c)
{
    const char *p = find_punctuation(c);

    if (p) {
        keep(s, c);
        push_token(s, punctuation_types[p - punctuation]);
        return;
    }
    if (c == '"' || c == '\'') {
        s->quote = c;
        s->state = IN_STRING;
    } else if (c == '-') {
        s->state = AFTER_MINUS;
    } else if (c == '0') {
        s->state = AFTER_ZERO;
    } else if (g_ascii_isdigit(c)) {
        s->state = IN_DIGITS;
    } else if (g_ascii_islower(c)) {
        s->state = IN_KEYWORD;
    } else if (c == '\n' && s->discarding) {
        end_discarding(s);
        return;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        return;
    } else {
        lexical_error(s, c);
        return;
    }
    keep(s, c);
}

typedef struct NumberState {
    State zero, digit, point, e, sign; /* where such a byte leads; START: it cannot follow */
    bool end;                          /* the number may end here */
    JsonTokenType type;
} NumberState;

static const NumberState number_states[] = {
    [AFTER_MINUS] = {.zero = AFTER_ZERO, .digit = IN_DIGITS},
    [AFTER_ZERO] = {.point = AFTER_POINT, .e = AFTER_E, .end = true, .type = JSON_TOKEN_INTEGER},
    [IN_DIGITS] = {.zero = IN_DIGITS,
                   .digit = IN_DIGITS,
                   .point = AFTER_POINT,
                   .e = AFTER_E,
                   .end = true,
                   .type = JSON_TOKEN_INTEGER},
    [AFTER_POINT] = {.zero = IN_FRACTION, .digit = IN_FRACTION},
    [IN_FRACTION] = {.zero = IN_FRACTION,
                     .digit = IN_FRACTION,
                     .e = AFTER_E,
                     .end = true,
                     .type = JSON_TOKEN_FLOAT},
    [AFTER_E] = {.zero = IN_EXPONENT, .digit = IN_EXPONENT, .sign = AFTER_E_SIGN},
    [AFTER_E_SIGN] = {.zero = IN_EXPONENT, .digit = IN_EXPONENT},
    [IN_EXPONENT] = {.zero = IN_EXPONENT,
                     .digit = IN_EXPONENT,
                     .end = true,
                     .type = JSON_TOKEN_FLOAT},
};

/* A byte in or behind a number; false: it belongs to what follows the number. */
static bool number_byte(JsonStream *s, char c)
{
    const NumberState *n = &number_states[s->state];
    State next = START;

    if (g_ascii_isdigit(c)) {
        next = c == '0' ? n->zero : n->digit;
        if (next == START) { /* no digit may follow a leading zero */
            lexical_error(s, c);
            return true;
        }
    } else if (c == '.') {
        next = n->point;
    } else if (c == 'e' || c == 'E') {
        next = n->e;
    } else if (c == '+' || c == '-') {
        next = n->sign;
    }
    if (next != START) {
        s->state = next;
        keep(s, c);
        return true;
    }
    if (!n->end) {
        lexical_error(s, c);
        return true;
    }
    push_token(s, n->type);
    return false;
}

static void feed(JsonStream *s, char c)
{
again:
    switch (s->state) {
    case START:
        start_token(s, c);
        return;
    case IN_STRING:
        if (is_control(c)) {
            lexical_error(s, c);
            return;
        }
        keep(s, c);
        if (c == '\\') {
            s->state = IN_ESCAPE;
        } else if (c == s->quote) {
            push_token(s, JSON_TOKEN_STRING);
        }
        return;
    case IN_ESCAPE:
        if (is_control(c)) {
            lexical_error(s, c);
            return;
        }
        keep(s, c);
        s->state = IN_STRING;
        return;
    case IN_KEYWORD:
        if (g_ascii_islower(c)) {
            keep(s, c);
            return;
        }
        push_token(s, JSON_TOKEN_KEYWORD);
        goto again;
    case RECOVERY:
        if (is_control(c) || find_punctuation(c)) {
            s->state = START;
            goto again;
        }
        return;
    default:
        if (!number_byte(s, c)) {
            goto again;
        }
        return;
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
    if (s->state == IN_STRING || s->state == IN_ESCAPE) {
        g_autoptr(Error) err = NULL;
        bool told = s->discarding;

        reset_text(s);
        s->state = START;
        end_discarding(s);
        if (!told) {
            error_set(&err, ERROR_INVALID, NULL, "json", "JSON parse error, premature EOI");
            report(s, err);
        }
        return;
    }
    feed(s, '\n'); /* ends a number or keyword */
    if (s->tokens->len > 0) {
        finish(s);
    }
    s->state = START;
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
