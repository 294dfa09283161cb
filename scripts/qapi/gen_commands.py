# SPDX-License-Identifier: BSD-3-Clause
"""Prototypes of command handlers, and the table of commands.

The table refers to every handler: only what has all of them links it.
"""
from .ccode import File, c_name, c_type, condition, guard, table_of
from .schema import SPECIAL_FEATURES

FLAGS = {'allow-oob': 'OOB', 'allow-preconfig': 'PRECONFIG', 'success-response': 'NO_RESPONSE',
         'coroutine': 'COROUTINE'}


def has_arg(cmd, schema):
    return cmd.arg is not schema.empty


def prototype(cmd, schema):
    args = []
    if has_arg(cmd, schema):
        args.append('const %s *arg' % cmd.arg.c_type_name())
    if cmd.ret is not None:
        args.append('%s*ret_out' % c_type(cmd.ret))
    args.append('Error **errp')
    return guard(cmd.ifcond, 'bool coroutine_fn qmp_%s(%s);\n' % (c_name(cmd.name), ', '.join(args)))


def marshaller(cmd, schema):
    text, call = '', []
    if has_arg(cmd, schema):
        call.append('arg')
    else:
        text += '    (void)arg;\n'
    if cmd.ret is not None:
        call.append('ret_out')
    else:
        text += '    (void)ret_out;\n'
    text += '    return qmp_%s(%s);\n' % (c_name(cmd.name), ', '.join(call + ['errp']))
    return guard(cmd.ifcond, 'static bool coroutine_fn marshal_%s(const void *arg, void *ret_out, '
                 'Error **errp)\n{\n%s}\n' % (c_name(cmd.name), text))


def row(cmd, schema):
    flags = ' | '.join('QAPI_COMMAND_' + f for key, f in FLAGS.items() if key in cmd.flags)
    for f in cmd.features:
        if f.name in SPECIAL_FEATURES:
            flag = 'QAPI_COMMAND_' + f.name.upper()
            if f.ifcond:
                flags = (flags or '0') + '\n#if %s\n     | %s\n#endif\n    ' % (
                    condition(f.ifcond), flag)
            else:
                flags += (' | ' if flags else '') + flag
    generated = 'gen' not in cmd.flags
    return guard(cmd.ifcond, '    {"%s", %s, %s, %s, %s},\n' % (
        cmd.name,
        table_of(cmd.arg) if has_arg(cmd, schema) else 'NULL',
        table_of(cmd.ret) if generated and cmd.ret is not None else 'NULL',
        'marshal_%s' % c_name(cmd.name) if generated else 'NULL',
        flags or '0'))


def generate(schema, prefix):
    cmds = schema.commands()
    gen = [c for c in cmds if 'gen' not in c.flags]
    symbol = c_name(prefix) + 'qapi_commands'
    head = File(prefix, 'qapi-commands.h', 'Command handlers')
    head.add('#include "%sqapi-types.h"\n#include "qapi/dispatch.h"\n\n' % prefix,
             '/* Control thread, in a coroutine.  *ret_out is set on success and then belongs to the caller,\n'
             ' * *errp on failure; arg stays the caller\'s. */\n')
    for c in gen:
        head.add(prototype(c, schema))
    head.add('\n/* In the order of the schema. */\n'
             'extern const QapiCommand %s[];\nextern const unsigned %s_count;\n' % (symbol, symbol))
    body = File(prefix, 'qapi-commands.c', 'The table of commands')
    body.add('#include "%s"\n' % head.name)
    for c in gen:
        body.add('\n', marshaller(c, schema))
    body.add('\nconst QapiCommand %s[] = {\n' % symbol, *[row(c, schema) for c in cmds])
    body.add('};\nconst unsigned %s_count = G_N_ELEMENTS(%s);\n' % (symbol, symbol))
    return [head, body]
