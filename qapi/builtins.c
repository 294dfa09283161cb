/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tables of the types that every schema has, and of arrays of them.
 *
 * Names of integer types are C's: error texts show them.
 */
#include "qapi/visit.h"

#define TYPE(N, SHOWN, META, T, ...)                                                               \
    const QapiType qapi_type_##N = {                                                               \
        .name = SHOWN, .meta = QAPI_META_##META, .size = sizeof(T), ##__VA_ARGS__};                \
    const QapiType qapi_type_##N##List = {.name = #N "List",                                       \
                                          .meta = QAPI_META_LIST,                                  \
                                          .size = sizeof(N##List),                                 \
                                          .element = &qapi_type_##N,                               \
                                          .value_offset = offsetof(N##List, value)}

TYPE(str, "str", STR, char *);
TYPE(number, "number", NUMBER, double);
TYPE(int, "int64_t", INT, int64_t, .is_signed = true);
TYPE(int8, "int8_t", INT, int8_t, .is_signed = true);
TYPE(int16, "int16_t", INT, int16_t, .is_signed = true);
TYPE(int32, "int32_t", INT, int32_t, .is_signed = true);
TYPE(int64, "int64_t", INT, int64_t, .is_signed = true);
TYPE(uint8, "uint8_t", INT, uint8_t);
TYPE(uint16, "uint16_t", INT, uint16_t);
TYPE(uint32, "uint32_t", INT, uint32_t);
TYPE(uint64, "uint64_t", INT, uint64_t);
TYPE(size, "uint64_t", INT, uint64_t, .is_size = true);
TYPE(bool, "bool", BOOL, bool);
TYPE(any, "any", ANY, struct json_object *);
TYPE(null, "null", NULL, bool);
