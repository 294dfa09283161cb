/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tokens of the JSON stream; private to monitor/.
 */
#ifndef MONITOR_JSON_TOKEN_H
#define MONITOR_JSON_TOKEN_H

#include "util/error.h"
#include <json-c/json.h>

typedef enum JsonTokenType {
    JSON_TOKEN_LBRACE,
    JSON_TOKEN_RBRACE,
    JSON_TOKEN_LBRACKET,
    JSON_TOKEN_RBRACKET,
    JSON_TOKEN_COLON,
    JSON_TOKEN_COMMA,
    JSON_TOKEN_STRING, /* text with its quotes and escapes */
    JSON_TOKEN_INTEGER,
    JSON_TOKEN_FLOAT,
    JSON_TOKEN_KEYWORD,
} JsonTokenType;

typedef struct JsonToken {
    JsonTokenType type;
    size_t len;
    char text[];
} JsonToken;

JsonToken *json_token_new(JsonTokenType type, const char *text, size_t len);
void json_token_free(gpointer token);

/* Exactly one value in all of tokens.  *ret_value NULL: a JSON null. */
bool json_parse_tokens(GPtrArray *tokens, struct json_object **ret_value, Error **errp);

#endif
