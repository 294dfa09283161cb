/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects authz-simple, authz-list and authz-list-file: who may.
 *
 * The list in a file is read when the object is made and, unless refresh=off, looked at again (by its time and size) when somebody is to
 * be judged; if it then cannot be read, nobody may.  What PAM decides is in authz-pam.c.
 */
#include "block/authz.h"
#include "authz-pam.h"
#include "object-internal.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/loop.h"
#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <sys/stat.h>

typedef struct ListFile {
    Object base;
    AuthZListProperties *list; /* NULL: cannot be read */
    struct stat seen;
} ListFile;

static bool list_permits(const AuthZListProperties *l, const char *identity)
{
    for (const QAuthZListRuleList *r = l->rules; r; r = r->next) {
        const QAuthZListRule *rule = r->value;
        bool glob = rule->has_format && rule->format == AUTHZ_FORMAT_GLOB;

        if (glob ? fnmatch(rule->match, identity, 0) == 0 : strcmp(rule->match, identity) == 0) {
            return rule->policy == AUTHZ_POLICY_ALLOW;
        }
    }
    return l->has_policy && l->policy == AUTHZ_POLICY_ALLOW;
}

static bool simple_create(Object *o, Error **errp)
{
    (void)o;
    (void)errp;
    return true;
}

/* ---- the list in a file ---- */

static AuthZListProperties *load(const char *path, Error **errp)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonObject) json = NULL;
    g_autofree char *text = NULL;
    AuthZListProperties *list;

    if (!g_file_get_contents(path, &text, NULL, &err)) {
        error_set(errp, ERROR_IO, path, "authz", "Unable to read '%s': %s", path, err->message);
        return NULL;
    }
    json = json_tokener_parse(text);
    if (!json) {
        error_set(errp, ERROR_INVALID, path, "authz", "File '%s' must contain a JSON object", path);
        return NULL;
    }
    return qapi_parse_AuthZListProperties(json, &list, errp) ? list : NULL;
}

static bool list_file_create(Object *o, Error **errp)
{
    const char *path = o->options->u.authz_listfile.filename;
    ListFile *f = (ListFile *)o;

    if (stat(path, &f->seen) < 0) {
        error_set_errno(errp, errno, path, "authz", "Unable to read '%s'", path);
        return false;
    }
    f->list = load(path, errp);
    return f->list;
}

static void list_file_cleanup(Object *o)
{
    ListFile *f = (ListFile *)o;

    qapi_free_AuthZListProperties(f->list);
}

static const AuthZListProperties *list_file_look(ListFile *f)
{
    const AuthZListFileProperties *p = &f->base.options->u.authz_listfile;
    struct stat st = {0};

    if (p->has_refresh && !p->refresh) {
        return f->list;
    }
    if (stat(p->filename, &st) == 0 && st.st_ino == f->seen.st_ino &&
        st.st_size == f->seen.st_size && st.st_mtim.tv_sec == f->seen.st_mtim.tv_sec &&
        st.st_mtim.tv_nsec == f->seen.st_mtim.tv_nsec) {
        return f->list;
    }
    g_clear_pointer(&f->list, qapi_free_AuthZListProperties);
    f->seen = st;
    {
        g_autoptr(Error) err = NULL;

        f->list = load(p->filename, &err);
        if (!f->list) {
            log_warn("%s: nobody is let in: %s", f->base.id, err->message);
        }
    }
    return f->list;
}

/* ---- asking ---- */

static Object *find(const char *id, Error **errp)
{
    Object *o = object_find(id);

    if (!o || !object_type_is_a(o->type, "authz")) {
        error_set(errp, ERROR_NOT_FOUND, id, "authz",
                  o ? "Object '%s' is not an authorization object"
                    : "Authorization object '%s' not found",
                  id);
        return NULL;
    }
    return o;
}

/* What is in memory, or in a file. */
static bool permits(Object *o, const char *identity, Error **errp)
{
    const AuthZListProperties *list = NULL;
    bool ok;

    if (o->type == &object_type_authz_simple) {
        ok = strcmp(o->options->u.authz_simple.identity, identity) == 0;
    } else {
        list = o->type == &object_type_authz_list ? &o->options->u.authz_list
                                                  : list_file_look((ListFile *)o);
        ok = list && list_permits(list, identity);
    }
    if (!ok) {
        error_set(errp, ERROR_PERMISSION, o->id, "authz", "'%s' is not permitted by '%s'", identity,
                  o->id);
    }
    return ok;
}

typedef struct Question {
    const char *id, *identity;
    bool answer;
    char *pam_service; /* not NULL: it is for PAM to answer */
    Error **errp;
    Coroutine *asker;
} Question;

static void answer(Question *q)
{
    Object *o = find(q->id, q->errp);

    if (o && o->type == &object_type_authz_pam) {
        q->pam_service = g_strdup(o->options->u.authz_pam.service);
    } else {
        q->answer = o && permits(o, q->identity, q->errp);
    }
}

static void answer_and_wake(void *opaque)
{
    Question *q = opaque;

    answer(q);
    co_wake(q->asker);
}

bool coroutine_fn authz_permits(const char *id, const char *identity, Error **errp)
{
    Question q = {.id = id, .identity = identity, .errp = errp, .asker = co_self()};

    if (loop_current() == loop_control()) {
        answer(&q);
    } else {
        loop_call(loop_control(), answer_and_wake, &q);
        co_yield();
    }
    if (q.pam_service) {
        q.answer = authz_pam_ask(q.pam_service, identity, errp);
        g_free(q.pam_service);
    }
    return q.answer;
}

static const ObjectProperty list_properties[] = {
    {"policy", "QAuthZListPolicy", "\"deny\""},
    {"rules", "QAuthZListRule", "[]"},
    {0},
};
static const ObjectProperty list_file_properties[] = {
    {"filename", "string", NULL},
    {"refresh", "bool", "true"},
    {0},
};
static const ObjectProperty simple_properties[] = {
    {"identity", "string", NULL},
    {0},
};

const ObjectClass object_type_authz_list = {
    .name = "authz-list",
    .parent = "authz",
    .size = sizeof(Object),
    .properties = list_properties,
    .create = simple_create,
};
const ObjectClass object_type_authz_list_file = {
    .name = "authz-list-file",
    .parent = "authz",
    .size = sizeof(ListFile),
    .properties = list_file_properties,
    .create = list_file_create,
    .cleanup = list_file_cleanup,
};
const ObjectClass object_type_authz_simple = {
    .name = "authz-simple",
    .parent = "authz",
    .size = sizeof(Object),
    .properties = simple_properties,
    .create = simple_create,
};
