# SPDX-License-Identifier: BSD-3-Clause
"""Prototypes of command handlers, their marshallers and the table of commands."""
from .ccode import c_name, file_head, guard
from .schema import Command


def handler_args(cmd, schema):
    args = []
    if cmd.arg is not schema.empty:
        args.append('const %s *arg' % cmd.arg.name)
    if cmd.ret is not None:
        args.append('%s **ret_out' % cmd.ret.name)
    args.append('Error **errp')
    return ', '.join(args)


def marshal(cmd, schema):
    call = []
    unused = ''
    if cmd.arg is not schema.empty:
        call.append('arg')
    else:
        unused += '    (void)arg;\n'
    if cmd.ret is not None:
        call.append('(%s **)ret_out' % cmd.ret.name)
    else:
        unused += '    (void)ret_out;\n'
    call.append('errp')
    return guard(cmd.ifcond, 'static bool coroutine_fn marshal_%s(const void *arg, void **ret_out, Error **errp)\n{\n%s'
                 '    return qmp_%s(%s);\n}\n' % (c_name(cmd.name), unused, c_name(cmd.name), ', '.join(call)))


def row(cmd, schema):
    flags = []
    if cmd.flags.get('allow-oob'):
        flags.append('QAPI_COMMAND_OOB')
    if cmd.flags.get('allow-preconfig'):
        flags.append('QAPI_COMMAND_PRECONFIG')
    if cmd.flags.get('success-response') is False:
        flags.append('QAPI_COMMAND_NO_RESPONSE')
    for f in cmd.features:
        if f.name in ('deprecated', 'unstable'):
            flags.append('QAPI_COMMAND_' + f.name.upper())
    generated = cmd.flags.get('gen') is not False
    return guard(cmd.ifcond, '    {"%s", %s, %s, %s, %s},\n' % (
        cmd.name,
        '&qapi_type_%s' % cmd.arg.name if generated and cmd.arg is not schema.empty else 'NULL',
        '&qapi_type_%s' % cmd.ret.name if generated and cmd.ret is not None else 'NULL',
        'marshal_%s' % c_name(cmd.name) if generated else 'NULL',
        ' | '.join(flags) or '0'))


def generate(schema):
    cmds = [e for e in schema.entities if isinstance(e, Command)]
    gen = [c for c in cmds if c.flags.get('gen') is not False]
    head = file_head('Command handlers', '#ifndef QAPI_COMMANDS_H\n#define QAPI_COMMANDS_H\n\n'
                     '#include "qapi-types.h"\n#include "qapi/dispatch.h"\n\n')
    head += ''.join(guard(c.ifcond, 'bool coroutine_fn qmp_%s(%s);\n' % (c_name(c.name), handler_args(c, schema))) for c in gen)
    head += '\nextern const QapiCommand qapi_commands[];\nextern const unsigned qapi_commands_count;\n\n#endif\n'
    body = file_head('Marshallers and the table of commands', '#include "qapi-commands.h"\n\n')
    body += '\n'.join(marshal(c, schema) for c in gen)
    body += '\nconst QapiCommand qapi_commands[] = {\n' + ''.join(row(c, schema) for c in cmds) + '};\n'
    body += 'const unsigned qapi_commands_count = G_N_ELEMENTS(qapi_commands);\n'
    return {'qapi-commands.h': head, 'qapi-commands.c': body}
