# SPDX-License-Identifier: BSD-3-Clause
"""
The request's side of the cut: block/request.c.

A root request enters edges (enter), does I/O, and ends (end).  What it decided at an edge is its pin there.  Nothing waits in
enter(); the only waits of a request are copies (copy_wait), locks of its node against its siblings, and flushes that it asked for.
"""
from explore import Violation
from world import ALLOCATED, CUT, FREED, Actor


class Request(Actor):
    """bit: the part of the cluster that it writes.  The client submits the request when it was told of the writes in `after`, and
    ready(state)."""

    def __init__(self, world, name, thread, disk, bit=0, after=0, ready=None):
        super().__init__(world, name, f"io{thread}", disk)
        self.t = thread
        self.data = bit
        self.after = after
        self.ready = ready
        if bit:
            world.bits[bit] = name
        self.change = self.local("change seen", world.show_change)
        self.following = self.local("next seen", world.show_node)
        self.buffer = None
        self.pins = []  # (edge, variable, counted)

    def counters(self, kind):
        """Those of every node, by its number."""
        return [None] + [getattr(n, kind or "writes") for n in self.w.nodes[1:]]

    # ---- edge_enter()

    def enter(self, edge, counted="writes", submit=None):
        """Decides for a node and pins it; returns the pin's variable.  counted: "writes", "reads", "flushes", or None where it is a
        read and nobody waits for reads.  submit(state): what the client does when it submits the request (first step only)."""
        w, t, change, following = self.w, self.t, self.change, self.following
        pin = self.local(f"pin of {edge.name}", w.show_node)
        others = list(self.pins)
        self.pins.append((edge, pin, counted))
        out, late_count = self.unique("entered"), self.unique("late count")
        counters = self.counters(counted)
        look_first = w.bug("look before count")
        no_wake = w.bug("a request that moves to the new node does not wake who waits")
        forget_pins = w.bug("a nested edge does not look at the pins of the request")
        freeze = w.bug("the edges are frozen while files are created")
        first = not self.steps
        after, ready = self.after, self.ready or (lambda s: True)

        def may_begin(s):
            return s[w.acked] & after == after and ready(s)

        def load(s):
            if submit is not None:
                submit(s)
            w.section_begin(s, t)
            s[pin] = s[edge.node]
            if counted and not look_first:
                w.store(s, t, counters[s[pin]][t], +1)

        def leave(s):
            s[change] = s[following] = 0
            w.section_end(s, t)
            return out

        def decide(s):
            return late_count if look_first and counted else leave(s)

        def look(s):
            s[change] = s[edge.pending]
            return None if s[change] else decide(s)

        def load_next(s):
            s[following] = s[edge.next]

        def pinned_old(s):
            """Did this request decide for the old node at another edge of this change, or enter that edge before it was armed?"""
            return any(s[p] and s[e.pending] == s[change] and s[p] != s[e.next] for e, p, _ in others)

        def judge(s):
            state = s[w.changes[s[change]].state]
            if state == FREED:
                raise Violation("memory", f"{self.name} looks at a freed change")
            if state != CUT or (not forget_pins and pinned_old(s)) or s[following] == s[pin]:
                return decide(s)
            old, new = s[pin], s[following]
            if not new:
                raise Violation("memory", f"{edge.name} has a pending change and no next node")
            for c in w.changes[1:]:
                if new in c.new_ids and not s[c.state]:
                    raise Violation("T1", f"{self.name} goes to {w.nodes[new].name} before {c.name} is cut")
            s[pin], s[following] = new, old
            if look_first or not counted:
                return decide(s)
            w.store(s, t, counters[new][t], +1)
            w.store(s, t, counters[old][t], -1)
            return leave(s) if no_wake else None

        if freeze:
            self.step(f"waits until {edge.name} is not frozen", lambda s: None, when=may_begin)
            self.step(f"waits until {edge.name} is not frozen", lambda s: None, when=lambda s: not s[edge.frozen])
        self.step(f"loads {edge.name}.node" + (" and counts itself there" if counted and not look_first else ""), load,
                  when=may_begin if first and (after or self.ready) else None)
        self.then(f"looks at {edge.name}.pending", look)
        self.then(f"loads {edge.name}.next", load_next)
        self.then(f"looks whether the change of {edge.name} is cut; if so goes to the next node", judge)
        if look_first and counted:
            self.label(late_count)
            self.then("counts itself", lambda s: w.store(s, t, counters[s[pin]][t], +1) or leave(s))
        elif counted and not no_wake:
            self.look_for_waiters(following, leave)
        self.label(out)
        return pin

    def end(self, only=None):
        """request_end(): lowers the counts, then looks for waiters, all in a read section: once its counts are zero a node may be
        freed after a grace period.  only: that pin alone (of a child request)."""
        w, t = self.w, self.t
        pins = [(p, counted) for _, p, counted in self.pins if only is None or p == only]
        pins.reverse()
        section = not w.bug("request_end is not in a read section")
        look_first = w.bug("request_end wakes before it lowers the count")

        def lower(p, counted):
            counters = self.counters(counted)

            def f(s):
                if section:
                    w.section_begin(s, t)
                if s[p]:
                    w.store(s, t, counters[s[p]][t], -1)
            return f

        def forget(s):
            for p, _ in pins:
                s[p] = 0
            if section:
                w.section_end(s, t)

        counting = [x for x in pins if x[1]]
        for i, (p, counted) in enumerate(counting):
            last = forget if i == len(counting) - 1 else (lambda s: None)
            put = self.step if i == 0 else self.then
            if look_first:
                put("begins to end", lambda s: None)
                self.look_for_waiters(p, lambda s: None)
                self.then("lowers its count", lambda s, f=lower(p, counted), last=last: f(s) or last(s))
            else:
                put("lowers its count", lower(p, counted))
                self.look_for_waiters(p, last)

    def look_for_waiters(self, pin, then):
        """Who lowered a count of the node in the variable `pin` looks for waiters, and wakes all of them under the lock.  then(state):
        done in the same step as the last of that."""
        w = self.w
        done = self.unique("nobody waits")
        waiters = [None] + [(n.waiters, n.woken) for n in w.nodes[1:]]

        def look(s):
            if s[pin]:
                w.check_alive(s, s[pin], self.name)
                if s[waiters[s[pin]][0]]:
                    return None
            then(s)
            return done

        def wake(s):
            w.check_alive(s, s[pin], self.name)
            w.drain(s, self.t)  # the lock orders what this thread did before the waiter's next look
            announced, woken = waiters[s[pin]]
            s[woken] |= s[announced]
            then(s)
        self.then("looks whether somebody waits for the node that it left", look)
        self.then("wakes who waits", wake)
        self.label(done)

    # ---- I/O in the entered node

    def store(self, node, allocate=None):
        """The write itself, and its completion: from then on the client knows.  allocate(state): the rest of the cluster."""
        w = self.w
        gen_first = w.bug("a write counts its generation when it begins")

        def data(s):
            rest = ALLOCATED | allocate(s) if allocate else 0
            node.put(s, self.data | rest, self.name)

        def generation(s):
            s[node.write_gen] += 1

        def tell(s):
            s[w.acked] |= self.data

        if not node.flushing:
            self.step(f"writes to {node.name}; the client is told", lambda s: data(s) or tell(s))
        elif gen_first:
            self.step(f"counts a generation of {node.name}", generation)
            self.step(f"writes to {node.name}; the client is told", lambda s: data(s) or tell(s))
        else:
            self.step(f"writes to {node.name}", data)
            self.step(f"counts a generation of {node.name}; the client is told", lambda s: generation(s) or tell(s))

    def copy_wait(self, disk, what="copy wait"):
        """A read with the copy mark through the edge new -> old: waits until no old write-like request can come any more."""
        out = self.unique("may copy")
        if self.w.bug("copies do not wait"):
            return
        # Each thread uses one edge where this bug is seeded, so what is counted for the edge is what the thread has.
        own = [self.t] if self.w.bug("copies wait for the old requests of their own edge only") else None
        nodes = disk.old.copy_waits
        if self.w.bug("copies wait for the node that they read only"):
            nodes = [disk.old]
        as_write = self.w.bug("a copy counts as a write in the node that it reads")

        def look(s):
            if as_write:
                self.w.store(s, self.t, disk.old.writes[self.t], +1)
            return None if s[disk.barrier] else out
        self.step(f"{what}: looks at the barrier of {disk.new.name}->{disk.old.name}", look)
        for node in nodes:
            self.wait_zero(node, what, threads=own)
        self.label(out)

    def write_new(self, disk, zero_status=False, full=False):
        """A write to a part of the cluster in the overlay: into the cluster, or, if it is not allocated there, copy-up.  (Drivers let
        one request at a time allocate a cluster; here the later one finds it allocated when it writes.)
        zero_status: ask first whether the old node reads as zeroes; then there is nothing to copy.
        full: it covers the whole cluster."""
        w, old, new = self.w, disk.old, disk.new
        link = self.unique("link")
        if self.buffer is None:
            self.buffer = self.local("copy", w.show_content)
        if full:
            self.store(new, lambda s: 0)
            return
        early_status = w.bug("block status is asked before the copy wait")

        def status(s):
            return None if s[old.content] else link

        def read(s):
            s[self.buffer] = s[old.content]

        def rest(s):
            data = 0 if s[new.content] else s[self.buffer]
            s[self.buffer] = 0
            return data

        self.step(f"looks whether {new.name} has the cluster", lambda s: link if s[new.content] else None)
        if zero_status and early_status:
            self.step(f"asks whether {old.name} reads as zeroes", status)
        self.copy_wait(disk)
        if zero_status and not early_status:
            self.step(f"asks whether {old.name} reads as zeroes", status)
        self.step(f"reads {old.name} for the copy", read)
        self.label(link)
        self.store(new, rest)

    def write(self, disk, pin, **how):
        """A write to the node that was entered."""
        to_old, done = self.unique("to old"), self.unique("written")
        self.choose("goes to the node it entered", lambda s: to_old if s[pin] == disk.old.id else None)
        self.write_new(disk, **how)
        self.goto(done)
        self.label(to_old)
        self.store(disk.old)
        self.label(done)

    def padded_write(self, disk, edge, pin):
        """A write that covers a part of a sector: read, modify, write of the whole, under the range lock of the node entered."""
        w, old, new = self.w, disk.old, disk.new
        to_old, plain, write, to_new, done = (self.unique(x) for x in ("old", "plain", "write", "new", "done"))
        if self.buffer is None:
            self.buffer = self.local("padding", w.show_content)
        buffer, locks = self.buffer, [0] + [n.rmw_lock for n in w.nodes[1:]]
        locked = self.local("locked", w.show_node)
        marked = not w.bug("the read of a padded write is not marked as a copy")
        per_child = w.bug("every child request decides for itself")

        def lock(s):
            s[locks[s[pin]]] = 1
            s[locked] = s[pin]
            return to_old if s[pin] == old.id else None

        def overwrite(node):
            def f(s):
                data = s[buffer] | self.data
                if node is new:
                    data |= ALLOCATED
                node.put(s, 0, self.name)
                s[node.content] = data
                s[w.acked] |= self.data
                s[buffer] = 0
                s[locks[s[locked]]] = s[locked] = 0
                return done
            return f

        def read_view(s):
            s[buffer] = disk.view(s)

        def read_old(s):
            s[buffer] = s[old.content]

        self.step("takes the range lock of the node it entered", lock, when=lambda s: not s[locks[s[pin]]])
        self.step(f"looks whether {new.name} has the sector", lambda s: plain if s[new.content] else None)
        if marked:
            self.copy_wait(disk, "copy wait of the padding")
        self.label(plain)
        self.step(f"reads the sector through {new.name}", read_view)
        self.goto(write)
        self.label(to_old)
        self.step(f"reads the sector in {old.name}", read_old)
        self.label(write)
        if per_child:
            self.end(only=pin)
            second = self.enter(edge)
        else:
            second = pin
        self.choose("goes to the node it entered", lambda s: to_new if s[second] == new.id else None)
        self.step(f"writes the sector to {old.name}; the client is told", overwrite(old))
        self.label(to_new)
        self.step(f"writes the sector to {new.name}; the client is told", overwrite(new))
        self.label(done)


class FlushRequest(Request):
    """A flush by the guest.  T5: all that the client was told before it submitted the flush is durable when it succeeds."""

    def __init__(self, world, name, thread, disk):
        super().__init__(world, name, thread, disk)
        self.owed = self.local("owes", world.show_content)
        self.failed = self.local("failed")

    def submit(self, s):
        s[self.owed] = s[self.w.acked]

    def flush(self, disk, pin):
        """edge_flush() of the node entered.  To the old node a flush that came through the overlay counts as a read: settle would
        never end under a steady flow of flushes."""
        to_old, done = self.unique("to old"), self.unique("done")
        self.choose("goes to the node it entered", lambda s: to_old if s[pin] == disk.old.id else None)
        self.flush_chain(disk, self.failed)
        self.goto(done)
        self.label(to_old)
        self.flush_node(disk.old, self.failed)
        self.label(done)

    def reply(self, *nodes):
        """The client is told; `nodes` together must hold what is owed."""
        def reply(s):
            missing = s[self.owed]
            for n in nodes:
                missing &= ~n.safe(s)
            if missing and not s[self.failed]:
                raise Violation("T5", f"{self.name} succeeds, but this was told before and is not durable: "
                                + self.w.show_content(missing))
            s[self.owed] = s[self.failed] = 0
        self.step("the client is told the result of the flush", reply)
        self.end()
