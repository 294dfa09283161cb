# SPDX-License-Identifier: BSD-3-Clause
"""
What the cut protocol runs on: memory, threads, read sections, nodes, edges, and how one waits for counts.

Memory
  Loads and stores of the control thread, read-modify-writes and what is done under a lock take effect at once.  The stores by which
  an I/O thread counts a request are plain: they go into a store buffer of that thread and reach memory some time later, those to
  different counters in any order (more than x86 allows), or when a membarrier or the end of a grace period drains the buffer.  A
  counter has one writer, so the buffer holds "+1" and "-1", and loading a node and counting there can be one step: others see
  the count when it is drained.  Loads are in order: the protocol's are acquire.
  liburcu is trusted: a grace period waits for the read sections that had begun, and is a full barrier for all threads.

Storage
  A node holds one cluster; every write owns one bit of it (a sector, or a part of one).  An overlay that has the cluster not
  allocated shows the old node's.  `acked`: the writes that the client was told of.

Names: `old` is the node an edge led to before the cut, `new` the one after it.  A node's number in the state is its place in
World.nodes; 0 is "none".
"""
from explore import Model, Process, Violation

ALLOCATED = 0x80   # in an overlay's content
CUT, FREED = 1, 2  # states of a change; before: 0, planned or armed
STORE_BUFFER = 4   # stores; a full buffer writes its oldest


class World(Model):
    """A model with nodes, threads, store buffers and read sections.  bugs: names of the mutations that are built in."""

    def __init__(self, name, bugs=(), threads=2):
        super().__init__(name)
        self.bugs = frozenset(bugs)
        self.known_bugs = set()
        self.threads = threads
        self.nodes = [None]
        self.changes = [None]
        self.bits = {}     # bit -> name of the write
        self.waiters = {}  # name of a process -> its bit in lists of waiters
        self.watched = [False] * 256
        self.var(".unused")  # no variable has index 0, so that no entry of a store buffer is 0
        self.acked = self.var("told to clients", show=self.show_content)
        self.sections = self.var("threads in a read section", show=self.show_threads)
        self.graces = []  # variables: the threads for whose read sections a grace period waits
        self.buffers = [[self.var(f".store buffer {t}.{i}") for i in range(STORE_BUFFER)][0] for t in range(threads)]

    def bug(self, name):
        """True if this mutation is built in.  What is never asked for does not exist: see known_bugs."""
        self.known_bugs.add(name)
        return name in self.bugs

    # ---- how a trace prints values

    def show_node(self, v):
        return self.nodes[v].name if v else "none"

    def show_change(self, v):
        return self.changes[v].name if v else "none"

    def show_content(self, v):
        names = [n for b, n in self.bits.items() if v & b]
        return ("" if not v & ALLOCATED else "allocated ") + "{" + " ".join(names) + "}"

    def show_threads(self, v):
        return "{" + " ".join(f"io{t}" for t in range(self.threads) if v >> t & 1) + "}"

    def show_processes(self, v):
        return "{" + " ".join(n for n, b in self.waiters.items() if v & b) + "}"

    @staticmethod
    def show_state(v):
        return ("not cut", "CUT", "freed")[v]

    # ---- store buffers and read sections

    def store(self, s, t, index, delta):
        """Thread t adds delta to a counter of its own, by a plain store.  Counters that nobody waits for are left out."""
        if not self.watched[index]:
            return
        first = self.buffers[t]
        if s[first + STORE_BUFFER - 1]:
            self.drain_one(s, first, STORE_BUFFER)
        while s[first]:
            first += 1
        s[first] = index * 2 + (delta > 0)

    def drain_one(self, s, slot, slots):
        """The store in `slot` reaches memory; those behind it (slots - 1 of them can be) move up."""
        entry = s[slot]
        s[entry >> 1] += 1 if entry & 1 else -1
        last = slot + slots - 1
        s[slot:last] = s[slot + 1:last + 1]
        s[last] = 0

    def drain(self, s, t):
        """A full barrier in thread t."""
        while s[self.buffers[t]]:
            self.drain_one(s, self.buffers[t], STORE_BUFFER)

    def drain_all(self, s):
        for t in range(self.threads):
            self.drain(s, t)

    def section_begin(self, s, t):
        s[self.sections] |= 1 << t

    def section_end(self, s, t):
        s[self.sections] &= ~(1 << t)
        for waits_for in self.graces:
            s[waits_for] &= ~(1 << t)

    def check_alive(self, s, node_id, who):
        node = self.nodes[node_id]
        if s[node.freed]:
            raise Violation("memory", f"{who} looks at {node.name}, which is freed")

    def finish(self):
        """The store buffers' own pace.  Call when all other processes exist."""
        for t in range(self.threads):
            for i in range(STORE_BUFFER):
                self._slot(t, self.buffers[t], i)

    def _slot(self, t, first, i):
        slot = first + i
        p = Process(self, f"store buffer of io{t}", None, kind="background")

        def may_drain(s):
            if not s[slot]:
                return False
            counter = s[slot] >> 1
            return all(s[e] >> 1 != counter for e in range(first, slot))

        def drain(s):
            self.drain_one(s, slot, STORE_BUFFER - i)
            return "again"
        p.label("again")
        p.step("a store reaches memory", drain, when=may_drain)


class Node:
    """flushing: also model what a power failure would leave (T5)."""

    def __init__(self, world, name, flushing=False):
        w = self.world = world
        self.name = name
        w.nodes.append(self)
        self.id = len(w.nodes) - 1
        self.writes = [w.var(f"{name}.writes[io{t}]") for t in range(w.threads)]
        # Requests that began after the cut and are among them nevertheless: only seeded bugs have such.
        self.newcomers = [w.var(f"{name}.newcomers[io{t}]") for t in range(w.threads)]
        self.waiters = w.var(f"{name}.waiters", show=w.show_processes)  # who announced that it waits
        self.woken = w.var(f"{name}.woken", show=w.show_processes)      # those of them that shall look again
        self.read_only = w.var(f"{name}.read_only")
        self.content = w.var(f"{name}.content", show=w.show_content)
        self.freed = w.var(f"{name}.freed")
        self.rmw_lock = w.var(f"{name}.rmw_lock")
        self.reads = [w.var(f"{name}.reads[io{t}]") for t in range(w.threads)]
        self.flushes = [w.var(f"{name}.flushes[io{t}]") for t in range(w.threads)]
        self.flushing = flushing
        # Before something is copied out of this node no old write may be in flight in these: the node, and the other old nodes of
        # the change from which a request of one client can still come to it (those above it; its sisters).
        self.copy_waits = [self]
        if flushing:
            self.durable = w.var(f"{name}.durable", show=w.show_content)
            self.lost = w.var(f"{name}.lost", show=w.show_content)
            self.write_gen = w.var(f"{name}.write_gen")
            self.flushed_gen = w.var(f"{name}.flushed_gen")
            self.flush_lock = w.var(f"{name}.flush_lock")
            self.flush_error = w.var(f"{name}.flush_error")
            self.unflushed_old = w.var(f"{name}.unflushed_old")
            self.fault = w.var(f"{name}: the next flush fails")

    def safe(self, s):
        """What a power failure would leave of the node's content."""
        return s[self.durable] if self.flushing else s[self.content]

    def put(self, s, bits, who):
        """Data arrive in this node."""
        if s[self.read_only]:
            raise Violation("T6", f"{who} writes to {self.name}, which is settled and read-only")
        s[self.content] |= bits


class Edge:
    def __init__(self, world, name, node=None):
        self.name = name
        self.node = world.var(f"{name}.node", node.id if node else 0, world.show_node)
        self.next = world.var(f"{name}.next", 0, world.show_node)
        self.pending = world.var(f"{name}.pending", 0, world.show_change)
        self.listed = world.var(f"{name} is in the change's list")
        self.freed = world.var(f"{name}.freed")
        self.frozen = world.var(f"{name}.frozen")  # only a seeded bug uses it


class Disk:
    """An old node, the overlay it gets, and the barrier of the edge (EDGE_COW) between them: copies that find it set wait.
    flushing: which of the two model what a power failure would leave."""

    def __init__(self, world, name, flushing=(False, False), old="N", new="O"):
        self.name = name
        self.old = Node(world, old, flushing[0])
        self.new = Node(world, new, flushing[1])
        self.barrier = world.var(f"barrier {new}->{old}")

    def view(self, s):
        """What the disk holds: the overlay's cluster if it has one."""
        return s[self.new.content] & ~ALLOCATED if s[self.new.content] else s[self.old.content]


class Actor(Process):
    """A process of the protocol: it has local variables, can wait for counts, and can flush."""

    def __init__(self, world, name, thread, group=None):
        super().__init__(world, name, thread, group)
        self.w = world
        self.waits_for = None
        self.bit = 1 << len(world.waiters)
        world.waiters[name] = self.bit

    def local(self, name, show=str):
        return self.w.var(f"{self.name}: {name}", 0, show)

    def barrier_heavy(self):
        """membarrier: between its begin and its end every thread executes a full barrier."""
        if self.thread == "control":
            for t in range(self.w.threads):
                self.then(f"membarrier reaches io{t}", lambda s, t=t: self.w.drain(s, t))
        else:  # the caller's own barrier, and that of the one other thread
            assert self.w.threads <= 2
            self.then("membarrier", self.w.drain_all)

    def grace(self):
        """co_rcu_synchronize()."""
        w = self.w
        if self.waits_for is None:
            self.waits_for = w.var(f"{self.name}'s grace period waits for", show=w.show_threads)
            w.graces.append(self.waits_for)
        waits_for = self.waits_for

        def begin(s):
            s[waits_for] = s[w.sections]
        self.step("a grace period begins", begin)
        self.step("the grace period ends", w.drain_all, when=lambda s: not s[waits_for])

    def wait_zero(self, node, why, kinds=("writes",), threads=None):
        """node_wait_writes(): announce, membarrier, sum; while it is not zero, sleep until woken and sum again.  The lock that is held
        from sum to sleep makes a wake-up of that time come after the sleep began; here it is remembered in `woken`."""
        w = self.w
        again, sleep, done = self.unique("again"), self.unique("sleep"), self.unique("done")
        no_second_look = w.bug("who waits does not look again after it announced itself")
        own_barrier = not w.bug("who waits sums without a membarrier of its own") and not w.bug("no membarrier")
        clear = 0xff ^ self.bit
        terms = [(f"the {kind} that io{t} has in {node.name}", getattr(node, kind)[t], node.newcomers[t])
                 for kind in kinds for t in threads or range(w.threads)]
        for _, index, _ in terms:
            w.watched[index] = True

        def announce(s):
            s[node.waiters] |= self.bit

        def term(index, newcomers, last):
            def look(s):
                if s[index]:
                    if s[newcomers] == s[index]:
                        raise Violation("T2", f"{self.name} waits for requests in {node.name} that began after the cut")
                    return sleep
                if last:
                    s[node.waiters] &= clear
                    s[node.woken] &= clear
                    return done
            return look

        def wake_up(s):
            s[node.woken] &= clear
            return again

        if no_second_look:
            self.step(f"{why}: begins", lambda s: None)
        else:
            self.step(f"{why}: announces that it waits for {node.name}", announce)
        if own_barrier:
            self.barrier_heavy()
        self.label(again)
        for i, (what, index, newcomers) in enumerate(terms):
            (self.step if i == 0 else self.then)(f"{why}: looks at {what}", term(index, newcomers, i == len(terms) - 1))
        self.label(sleep)
        if no_second_look:
            self.step(f"{why}: announces that it waits for {node.name}", announce)
        self.step(f"{why}: sleeps until woken", wake_up, when=lambda s: s[node.woken] & self.bit)
        self.label(done)

    def flush_node(self, node, failed, below=None):
        """node_flush_self(): flushes one node; `failed` is a variable.  What began after another flush has covered it has nothing to
        do; one flush at a time; a failure is sticky.  below(): adds the steps of a node that has no storage of its own, but
        flushes what is below it."""
        w = self.w
        done, failure = self.unique("flushed"), self.unique("failed")
        want, now = self.local(f"want of {node.name}"), self.local(f"now of {node.name}")
        data = self.local(f"data of {node.name}", w.show_content)
        gen_after = w.bug("a flush takes the generation that it makes durable when it ends")
        forgets = w.bug("a failed flush is not sticky")
        no_second_look = w.bug("a flush that waited for another does not look whether that failed")

        def begin(s):
            s[want] = s[node.write_gen]
            if s[node.flush_error]:
                return failure
            if s[node.flushed_gen] >= s[want]:
                return finish(s)

        def lock(s):
            if s[node.flush_error] and not no_second_look:
                return failure
            if s[node.flushed_gen] >= s[want]:
                return finish(s)
            s[node.flush_lock] = 1
            s[now] = s[node.write_gen]
            s[data] = s[node.content]

        def end(s):
            if s[node.fault]:  # the kernel drops the pages, and calls them clean from then on
                s[node.fault] = 0
                s[node.lost] |= s[data] & ~s[node.durable]
                s[node.flush_error] = not forgets
                s[failed] = 1
            elif not s[failed]:
                s[node.durable] |= s[data] & ~s[node.lost]
                s[node.flushed_gen] = s[node.write_gen] if gen_after else s[now]
            s[node.flush_lock] = 0
            return finish(s)

        def finish(s):
            s[want] = s[now] = s[data] = 0
            return done

        def fail(s):
            s[failed] = 1
            return finish(s)

        self.step(f"wants {node.name} flushed", begin)
        # To wait for another flush of the very node that one wants flushed is no breach of T4.
        self.step(f"begins to flush {node.name}", lock, when=lambda s: not s[node.flush_lock], permitted=True)
        if below is not None:
            below()
        self.step(f"ends to flush {node.name}", end)
        self.label(failure)
        self.choose("finds that a flush of the node has failed", fail)
        self.label(done)

    def flush_chain(self, disk, failed, below=None):
        """edge_flush() in an overlay: first the old node, while it is not known flushed.  below: as in flush_node()."""
        w, old = self.w, disk.old
        upper = self.unique("upper")
        if not w.bug("a flush of the overlay does not flush the old node"):
            self.step(f"looks whether {old.name} is not known flushed", lambda s: None if s[old.unflushed_old] else upper)
            counts = w.bug("a flush of the overlay counts as a flush in the old node") and self.thread != "control"
            if counts:
                def newcomer(s):
                    s[old.flushes[self.t]] += 1
                    s[old.newcomers[self.t]] += 1
                self.step(f"counts itself in {old.name}", newcomer)
            self.flush_node(old, failed, below)
            if w.bug("a flush of the overlay marks the old node as flushed"):
                def clear(s):
                    if not s[failed]:
                        s[old.unflushed_old] = 0
                self.step(f"{old.name} is called flushed", clear)
        self.label(upper)
        if disk.new.flushing:
            self.flush_node(disk.new, failed)
