/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The types that every schema has.
 */
#include "qapi/visit.h"

#define INT(N, T, SIGNED, SIZE)                                                                    \
    const QapiType qapi_type_##N = {.name = #T,                                                    \
                                    .meta = QAPI_META_INT,                                         \
                                    .size = sizeof(T),                                             \
                                    .is_signed = SIGNED,                                           \
                                    .is_size = SIZE}

const QapiType qapi_type_str = {.name = "str", .meta = QAPI_META_STR, .size = sizeof(char *)};
const QapiType qapi_type_number = {
    .name = "number", .meta = QAPI_META_NUMBER, .size = sizeof(double)};
INT(int, int64_t, true, false);
INT(int8, int8_t, true, false);
INT(int16, int16_t, true, false);
INT(int32, int32_t, true, false);
INT(int64, int64_t, true, false);
INT(uint8, uint8_t, false, false);
INT(uint16, uint16_t, false, false);
INT(uint32, uint32_t, false, false);
INT(uint64, uint64_t, false, false);
INT(size, uint64_t, false, true);
const QapiType qapi_type_bool = {.name = "bool", .meta = QAPI_META_BOOL, .size = sizeof(bool)};
const QapiType qapi_type_any = {
    .name = "any", .meta = QAPI_META_ANY, .size = sizeof(struct json_object *)};
const QapiType qapi_type_null = {.name = "null", .meta = QAPI_META_NULL, .size = sizeof(bool)};
