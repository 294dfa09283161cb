/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Gates: requests that begin in one node wait for a moment, all of them or those that write; private to block/.  See gate.c.
 *
 * Functions belong to the control thread; the node is reserved by the caller (so its edges stay) as long as its gate is not open.
 */
#ifndef BLOCK_GATE_H
#define BLOCK_GATE_H

#include "block/io.h"

typedef enum GateState {
    GATE_OPEN,
    GATE_CLOSED,  /* until opened, or until the deadline passes */
    GATE_CLAIMED, /* until opened: no deadline any more */
    /* The same two for write-like requests only. */
    GATE_WRITES,
    GATE_WRITES_CLAIMED,
} GateState;

/* From here on requests that have not been let in wait, at most until clock_ns() passes the deadline. */
void gate_close(Node *n, int64_t deadline_ns);
/* The same for write-like requests alone; reads and flushes go on. */
void gate_close_writes(Node *n, int64_t deadline_ns);
/* Suspends until no request is in n.  False: the deadline has passed, requests run again. */
bool coroutine_fn gate_wait_idle(Node *n);
/* After gate_close_writes(): until no write-like request is. */
bool coroutine_fn gate_wait_writes(Node *n);
/* The caller is about to change what requests see, with nothing that takes time.  False: the deadline has passed. */
bool gate_claim(Node *n);
/* After gate_close_writes() and gate_claim(): the change is made, but writes shall wait on, under the same deadline as before. */
void gate_unclaim(Node *n);
/* Lets all waiting requests go, in their order; nothing happens to a gate that is open. */
void gate_open(Node *n);

/* A request that is in no count finds the gate not open; the caller is in a read section, which this ends. */
void coroutine_fn gate_wait(Node *n);

#endif
