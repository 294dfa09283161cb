/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Telnet (RFC 854): its commands are taken out; the server offers to echo, and to go without go-aheads (RFC 857, 858), which puts
 * clients into the mode of one character at a time.  What the client answers is not looked at.
 */
#include "chardev-internal.h"

enum { IAC = 255, DONT = 254, WILL = 251, SB = 250, SE = 240 };
enum { DATA, CARRIAGE_RETURN, COMMAND, OPTION, SUBNEGOTIATION, SUBNEGOTIATION_IAC };

const char telnet_hello[] = "\377\373\001"  /* IAC WILL ECHO */
                            "\377\373\003"  /* IAC WILL SUPPRESS-GO-AHEAD */
                            "\377\374\042"; /* IAC WONT LINEMODE */

static unsigned command(unsigned char b)
{
    if (b >= WILL && b <= DONT) {
        return OPTION;
    }
    return b == SB ? SUBNEGOTIATION : DATA;
}

size_t telnet_filter(unsigned *state, char *data, size_t len)
{
    size_t left = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char b = data[i];

        switch (*state) {
        case CARRIAGE_RETURN:
            *state = DATA;
            if (b == '\0') {
                break; /* a carriage return by itself */
            }
            /* fall through */
        case DATA:
            if (b == IAC) {
                *state = COMMAND;
                break;
            }
            *state = b == '\r' ? CARRIAGE_RETURN : DATA;
            data[left++] = b;
            break;
        case COMMAND:
            *state = command(b);
            if (b == IAC) {
                data[left++] = b;
            }
            break;
        case OPTION:
            *state = DATA;
            break;
        case SUBNEGOTIATION:
            *state = b == IAC ? SUBNEGOTIATION_IAC : SUBNEGOTIATION;
            break;
        default:
            *state = b == SE ? DATA : SUBNEGOTIATION;
            break;
        }
    }
    return left;
}
