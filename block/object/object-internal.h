/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The types of objects; private to block/object/.
 */
#ifndef BLOCK_OBJECT_INTERNAL_H
#define BLOCK_OBJECT_INTERNAL_H

#include "block/object.h"

extern const ObjectClass object_type_authz_list, object_type_authz_list_file, object_type_authz_pam,
    object_type_authz_simple, object_type_iothread, object_type_main_loop, object_type_secret,
    object_type_secret_keyring, object_type_throttle_group, object_type_tls_creds_anon,
    object_type_tls_creds_psk, object_type_tls_creds_x509;

/* An integer given to a property; false with *errp: it is something else. */
bool object_value_int(const char *property, struct json_object *value, int64_t *ret, Error **errp);

#endif
