# SPDX-License-Identifier: BSD-3-Clause
"""
The cases: small worlds, what each is to show, and the bugs that are seeded in it.

A scenario is a function that fills a World.  As built it must hold; with one of the bugs of its list built in, it must not, and the
property that breaks must be among those named.  Properties: T1, T2, T4 to T7 of docs/architecture.md; "memory" (something freed or
not yet there is used); "progress" (all wait).
"""
from change import Change, Control
from explore import Process, Violation
from request import FlushRequest, Request
from world import ALLOCATED, CUT, Actor, Disk, Edge, Node


# ---- parts that several scenarios use

def one_disk(w, flushing=(False, False)):
    """A disk with one edge and the change that snapshots it."""
    disk = Disk(w, "the disk", flushing)
    edge = Edge(w, "e", disk.old)
    return disk, edge, Change(w, "the change", [(edge, disk.old, disk.new)], [disk])


def snapshot(w, change, fold=True):
    """The control thread's part, from arm to reply."""
    c = Control(w)
    c.arm(change)
    c.cut(change)
    c.settle(change)
    if fold:
        c.fold(change)
    c.reply()
    return c


def writer(w, name, thread, disk, edge, bit, **how):
    r = Request(w, name, thread, disk.name, bit)
    r.write(disk, r.enter(edge), **how)
    r.end()
    return r


def keeps_acked_writes(w, *disks):
    """Invariant T6: what a client was told of is on its disk; so no copy has missed it.  disks: (disk, bits written there)."""
    def check(s):
        for disk, bits in disks:
            missing = s[w.acked] & bits & ~disk.view(s)
            if missing:
                raise Violation("T6", f"{disk.name} lacks what the client was told is written: {w.show_content(missing)}")
    w.invariants.append(check)


# ---- T6: copies

def copy_up(w):
    """Two writes to parts of one cluster, by one edge, from two threads."""
    disk, edge, change = one_disk(w)
    writer(w, "w1", 0, disk, edge, 1)
    writer(w, "w2", 1, disk, edge, 2)
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 3))


def three_requests(w):
    """The same with a third request: two coroutines on one thread."""
    disk, edge, change = one_disk(w)
    writer(w, "w1", 0, disk, edge, 1)
    writer(w, "w2", 1, disk, edge, 2)
    writer(w, "w3", 1, disk, edge, 4)
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 7))


def two_edges(w):
    """Two edges, as of two exports, onto one old node."""
    disk = Disk(w, "the disk")
    e1, e2 = Edge(w, "e1", disk.old), Edge(w, "e2", disk.old)
    change = Change(w, "the change", [(e, disk.old, disk.new) for e in (e1, e2)], [disk])
    writer(w, "w1", 0, disk, e1, 1)
    writer(w, "w2", 1, disk, e2, 2)
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 3))


def padded_writes(w):
    """Two writes to parts of one sector: read, modify, write."""
    disk, edge, change = one_disk(w)
    for t, name in enumerate(("w1", "w2")):
        r = Request(w, name, t, disk.name, 1 << t)
        r.padded_write(disk, edge, r.enter(edge))
        r.end()
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 3))


def zero_status(w):
    """A write that copies nothing if the old node reads as zeroes, beside an ordinary one."""
    disk, edge, change = one_disk(w)
    writer(w, "w1", 0, disk, edge, 1)
    writer(w, "w2", 1, disk, edge, 2, zero_status=True)
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 3))


def born_edge(w):
    """Another coroutine of the control thread attaches an edge, at any moment.  After the cut its owner is given the overlay.
    (Between arm and cut there is no yield today; here there is one, for the journal's record.)"""
    disk = Disk(w, "the disk")
    e1, e2 = Edge(w, "e1", disk.old), Edge(w, "e2")
    change = Change(w, "the change", [(e, disk.old, disk.new) for e in (e1, e2)], [disk])
    unarmed = w.bug("an edge that is born between arm and cut is not armed")
    joins = w.bug("an edge that is born after the cut joins the change")
    armed = w.var("armed")

    def attach(s):
        cut = s[change.state] != 0
        born = s[armed] and not s[change.state] and not unarmed
        if joins and s[e1.pending]:
            cut, born = False, True
        s[e2.node] = disk.new.id if cut else disk.old.id
        if born:
            s[e2.next], s[e2.pending] = disk.new.id, change.id

    c = Control(w)
    c.arm(change)
    c.then("is armed", lambda s: s.__setitem__(armed, 1))
    c.step("records that the group is committed", lambda s: None)
    c.cut(change)
    c.settle(change)
    c.fold(change)
    c.reply()
    Process(w, "attach", "control").step("attaches e2", attach)
    writer(w, "w1", 0, disk, e1, 1)
    r = Request(w, "w2", 1, disk.name, 2, ready=lambda s: s[e2.node])
    r.write(disk, r.enter(e2))
    r.end()
    keeps_acked_writes(w, (disk, 3))


# ---- changes with several old nodes on one way

def _store_copy(r, disk, buffer):
    """The last step of a copy-up."""
    def rest(s):
        data = 0 if s[disk.new.content] else s[buffer]
        s[buffer] = 0
        return data
    r.store(disk.new, rest)


def _one_side(w, r, what, old_first, new_second):
    def check(s):
        if old_first(s) and new_second(s):
            raise Violation("T1", f"{r.name} is half old and half new: {what}")
    r.choose("goes on below", check)


def nested(w):
    """export1 --e1--> F --e2--> Q and export2 --e3--> Q; F is a filter; one transaction snapshots F (overlay P) and Q (overlay O).
    b writes by e1, c by e3, to parts of one cluster."""
    upper = Disk(w, "F's disk", old="F", new="P")
    lower = Disk(w, "Q's disk", old="Q", new="O")
    lower.old.copy_waits = [upper.old, lower.old]
    e1, e2, e3 = Edge(w, "e1", upper.old), Edge(w, "e2", lower.old), Edge(w, "e3", lower.old)
    members = [(e1, upper.old, upper.new), (e2, lower.old, lower.new), (e3, lower.old, lower.new)]
    if w.bug("lower nodes first, each barrier by itself"):
        members = members[1:] + members[:1]
    change = Change(w, "the change", members, [upper, lower])

    b = Request(w, "b", 0, "one guest", 1)
    buffer = b.local("copy", w.show_content)
    overlay, link, read_q, done = (b.unique(x) for x in ("overlay", "link", "read Q", "done"))
    top = b.enter(e1)
    b.choose("goes to the node it entered", lambda s: overlay if s[top] == upper.new.id else None)
    low = b.enter(e2)
    _one_side(w, b, "F, then O", lambda s: s[top] == upper.old.id, lambda s: s[low] == lower.new.id)
    b.store(lower.old)
    b.goto(done)
    b.label(overlay)
    b.step("looks whether P has the cluster", lambda s: link if s[upper.new.content] else None)
    b.copy_wait(upper)
    below = b.enter(e2, counted=None)
    _one_side(w, b, "P, then Q", lambda s: s[top] == upper.new.id, lambda s: s[below] == lower.old.id)
    b.step("looks whether O has the cluster", lambda s: None if s[lower.new.content] else read_q)
    b.step("reads O for the copy", lambda s: s.__setitem__(buffer, s[lower.new.content] & ~ALLOCATED))
    b.goto(link)
    b.label(read_q)
    b.copy_wait(lower)
    b.step("reads Q for the copy", lambda s: s.__setitem__(buffer, s[lower.old.content]))
    b.label(link)
    _store_copy(b, upper, buffer)
    b.label(done)
    b.end()

    c = Request(w, "c", 1, "one guest", 2)
    c.write(lower, c.enter(e3))
    c.end()
    snapshot(w, change)
    keeps_acked_writes(w, (lower, 2))

    def whole(s):
        if s[w.acked] & 1:
            if s[lower.old.content] & 1 and not lower.view(s) & 1:
                raise Violation("T6", "O was copied out of Q without b, which is in Q")
            view = s[upper.new.content] & ~ALLOCATED if s[upper.new.content] else lower.view(s)
            if not view & 1:
                raise Violation("T6", "export1's disk lacks b")
    w.invariants.append(whole)


def sisters(w):
    """A parent with two children, --ea--> A and --eb--> B, as a quorum; both are snapshotted by one change.  b writes to both, in this
    order; c writes to B by an edge of its own."""
    a, d = Disk(w, "A's disk", old="A", new="A2"), Disk(w, "B's disk", old="B", new="B2")
    d.old.copy_waits = [a.old, d.old]
    ea, eb, ec = Edge(w, "ea", a.old), Edge(w, "eb", d.old), Edge(w, "ec", d.old)
    change = Change(w, "the change", [(eb, d.old, d.new), (ec, d.old, d.new), (ea, a.old, a.new)], [a, d])

    b = Request(w, "b", 0, "one guest", 1)
    first = b.enter(ea)
    b.step("writes to the child it entered", lambda s: None)
    second = b.enter(eb)
    _one_side(w, b, "A, then B2", lambda s: s[first] == a.old.id, lambda s: s[second] == d.new.id)
    b.write(d, second)
    b.end()
    c = Request(w, "c", 1, "one guest", 2)
    c.write(d, c.enter(ec))
    c.end()
    snapshot(w, change)
    keeps_acked_writes(w, (d, 3))


# ---- T1: groups

def group(w):
    """Two disks in a group, w2 is submitted to the second after w1 on the first has ended, u is on a disk that is not in the
    group.  Creating the second overlay may fail; a query may come at any time."""
    d1, d2 = Disk(w, "disk 1", old="N1", new="O1"), Disk(w, "disk 2", old="N2", new="O2")
    e1, e2 = Edge(w, "e1", d1.old), Edge(w, "e2", d2.old)
    other = Node(w, "X")
    e3 = Edge(w, "e3", other)
    members = [[(e1, d1.old, d1.new)], [(e2, d2.old, d2.new)]]
    if w.bug("the flip is made disk by disk") or w.bug("a member is switched over when its own prepare has ended"):
        changes = [Change(w, f"change {i + 1}", m, [d]) for i, (m, d) in enumerate(zip(members, (d1, d2)))]
    else:
        changes = [Change(w, "the change", members[0] + members[1], [d1, d2])]
    targets = [w.var(f"query: target of {e.name}", d.old.id, w.show_node) for e, d in ((e1, d1), (e2, d2))]
    files = [w.var(f"file of {d.new.name}") for d in (d1, d2)]
    fails = w.var("the second file cannot be created")
    recorded, ended, aborted = w.var("recorded"), w.var("replied"), w.var("aborted")

    def flip(s, c):
        for e, _, new in c.members:
            s[targets[0 if e is e1 else 1]] = new.id

    def create(n):
        def f(s):
            if n == 1 and s[fails]:
                s[aborted] = 1
                return "abort"
            s[files[n]] = 1
        return f

    c = Control(w)
    frozen = w.bug("the edges are frozen while files are created")
    c.step("plans", lambda s: None)
    for n, (e, d) in enumerate(((e1, d1), (e2, d2))):
        c.step(f"begins to create {d.new.name}", lambda s, e=e: s.__setitem__(e.frozen, 1) if frozen else None)
        c.step(f"ends to create {d.new.name}", create(n))
        if w.bug("a member is switched over when its own prepare has ended"):
            c.arm(changes[n])
            c.cut(changes[n], also=flip)
    if not w.bug("the record follows the cut"):
        c.step("records that the group is committed", lambda s: s.__setitem__(recorded, 1))
    if not w.bug("a member is switched over when its own prepare has ended"):
        c.arm(*changes)
        c.cut(*changes, also=flip)
    if frozen:
        c.then("lets requests in again", lambda s: s.__setitem__(e1.frozen, 0) or s.__setitem__(e2.frozen, 0))
    if w.bug("the record follows the cut"):
        c.step("records that the group is committed", lambda s: s.__setitem__(recorded, 1))
    c.settle(*changes)
    for change in changes:
        c.fold(change)
    c.step("replies", lambda s: s.__setitem__(ended, 1) or "end")
    c.label("abort")
    c.step("removes the first file", lambda s: s.__setitem__(files[0], 0))
    c.step("replies with the error", lambda s: s.__setitem__(ended, 1))
    c.label("end")

    writer(w, "w1", 0, d1, e1, 1, full=True)
    r = Request(w, "w2", 1, d2.name, 2, after=1)
    r.write(d2, r.enter(e2), full=True)
    r.end()
    u = Request(w, "u", 1, "an uninvolved disk", 4)
    u.enter(e3)
    u.store(other)
    u.end()
    Process(w, "the storage", None, kind="optional").step("runs out of space", lambda s: s.__setitem__(fails, 1))

    query = Process(w, "a query", "control", kind="optional")
    query.label("again")

    def ask(s):
        new = [s[targets[0]] == d1.new.id, s[targets[1]] == d2.new.id]
        if new[0] != new[1]:
            raise Violation("T1", "a query sees one disk on its overlay and the other not")
        if s[ended] and new[0] == bool(s[aborted]):
            raise Violation("T1", "a query after the reply sees something else than the reply said")
        return "again"
    query.step("asks for the graph", ask)

    def consistent(s):
        if s[d2.old.content] & 2 and not s[d1.old.content] & 1:
            raise Violation("T1", "the old images hold w2, but not w1 on which it depends")
        if s[aborted] and (s[d1.new.content] or s[d2.new.content] or s[e1.pending] or s[e2.pending]
                           or s[e1.node] != d1.old.id or s[ended] and (s[files[0]] or s[files[1]])):
            raise Violation("T1", "an aborted group has left something")
        # A power failure in this state finds what is on the disk: files, the record, data.
        if s[recorded] and not (s[files[0]] and s[files[1]]):
            raise Violation("T1", "power failure: recorded as committed, and an overlay is missing")
        if (s[d1.new.content] or s[d2.new.content]) and not s[recorded]:
            raise Violation("T7", "power failure: an overlay holds data, and nothing says that the group is committed")
    w.invariants.append(consistent)
    keeps_acked_writes(w, (d1, 1), (d2, 2))


# ---- T4: locks above the edge

def range_lock_above(w):
    """A node above the edge (a filter) makes each request hold a range lock of its own while it is below."""
    disk, edge, change = one_disk(w)
    lock = w.var("range lock above")
    early = w.bug("an edge is entered before a range lock above it is taken")
    pieces = w.bug("the range lock is taken for every piece of a request")

    def take(r):
        r.step("takes the range lock above", lambda s: s.__setitem__(lock, 1), when=lambda s: not s[lock])

    def leave(r):
        r.step("gives the range lock back", lambda s: s.__setitem__(lock, 0))

    for t, name in enumerate(("w1", "w2")):
        r = Request(w, name, t, disk.name, 1 << t)
        r.step("comes to the node above", lambda s: None)
        if not early:
            take(r)
        pin = r.enter(edge)
        r.step("its first piece is read", lambda s: None)
        if pieces:
            leave(r)
        if early or pieces:
            take(r)
        r.write(disk, pin)
        leave(r)
        r.end()
    snapshot(w, change)
    keeps_acked_writes(w, (disk, 3))


def reads_below_overlay(w):
    """export --> T --backing--> F --e--> N: only N is snapshotted.  Writes to T make T copy up what it reads through e, cluster after
    cluster, under a lock of T for each; to N they are reads."""
    disk, edge, change = one_disk(w)
    lock = w.var("T's lock of a cluster")
    counted = "writes" if w.bug("what is read below a backing edge counts as a write") else None
    for t, name in enumerate(("w1", "w2")):
        r = Request(w, name, t, disk.name, 1 << t)
        pin = r.enter(edge, counted)
        for piece in ("first", "second"):
            read, done = r.unique("read"), r.unique("done")
            if piece == "second":
                r.step("takes T's lock of the second cluster", lambda s: s.__setitem__(lock, 1), when=lambda s: not s[lock])
            r.choose("goes to the node it entered", lambda s: read if s[pin] == disk.old.id else None)
            r.copy_wait(disk)
            r.label(read)
            r.step(f"reads the {piece} cluster for T's copy", lambda s: None)
            r.label(done)
        r.step("gives T's lock back", lambda s: s.__setitem__(lock, 0))
        r.end()
    snapshot(w, change)


# ---- T5: flush

def known_flushed(w, disk, change):
    """Invariant T5: after the cut, an old node that flushes of the overlay leave out holds nothing volatile that a client was told
    of."""
    old = disk.old

    def check(s):
        if s[change.state] == CUT and not s[old.unflushed_old]:
            volatile = s[old.content] & s[w.acked] & ~s[old.durable]
            if volatile:
                raise Violation("T5", f"{old.name} is known flushed, but this is not durable: {w.show_content(volatile)}")
    w.invariants.append(check)


def flushes(w):
    """Two writes and a flush around a cut."""
    disk, edge, change = one_disk(w, flushing=(True, False))
    writer(w, "w1", 0, disk, edge, 1, full=True)
    writer(w, "w2", 1, disk, edge, 2, full=True)
    f = FlushRequest(w, "f1", 0, disk.name)
    f.flush(disk, f.enter(edge, "flushes", submit=f.submit))
    f.reply(disk.old, disk.new)
    snapshot(w, change, fold=False)
    known_flushed(w, disk, change)


def two_flushes(w):
    """One write and two flushes; the storage fails whatever flush comes first."""
    disk, edge, change = one_disk(w, flushing=(True, False))
    writer(w, "w1", 0, disk, edge, 1, full=True)
    for t in (0, 1):
        f = FlushRequest(w, f"f{t + 1}", t, disk.name)
        f.flush(disk, f.enter(edge, "flushes", submit=f.submit))
        f.reply(disk.old, disk.new)
    snapshot(w, change, fold=False)
    known_flushed(w, disk, change)
    w.init[disk.old.fault] = 1


def flush_above(w):
    """export --> F --e--> N: only N is snapshotted; F is a node above it whose flush flushes what is below."""
    disk, edge, change = one_disk(w, flushing=(True, True))
    above = Node(w, "F", flushing=True)
    one_node = w.bug("a flush that comes from above does not go down the chain")

    def below(r, pin):
        to_old, done = r.unique("to old"), r.unique("done")
        r.choose("goes to the node it entered", lambda s: to_old if s[pin] == disk.old.id else None)
        if one_node:
            r.flush_node(disk.new, r.failed)
        else:
            r.flush_chain(disk, r.failed)
        r.goto(done)
        r.label(to_old)
        r.flush_node(disk.old, r.failed)
        r.label(done)

    r = Request(w, "w1", 0, disk.name, 1)
    r.write(disk, r.enter(edge), full=True)
    r.step("counts a generation of F; the client is told of F's write",
           lambda s: s.__setitem__(above.write_gen, s[above.write_gen] + 1) or s.__setitem__(told, s[w.acked]))
    r.end()
    told = w.var("told by F", show=w.show_content)
    for t, name in ((1, "f1"), (0, "f2")):
        f = FlushRequest(w, name, t, disk.name)
        f.step("submits", lambda s, f=f: s.__setitem__(f.owed, s[told]))
        f.flush_node(above, f.failed, below=lambda f=f: below(f, f.enter(edge, "flushes")))
        f.reply(disk.old, disk.new)
    snapshot(w, change, fold=False)


def nested_flush(w):
    """export --e1--> F --e2--> Q, both in the change: F gets the overlay P, Q the overlay O.  What F holds is in Q."""
    upper = Disk(w, "F's disk", (True, False), old="F", new="P")
    lower = Disk(w, "Q's disk", (True, False), old="Q", new="O")
    e1, e2 = Edge(w, "e1", upper.old), Edge(w, "e2", lower.old)
    change = Change(w, "the change", [(e1, upper.old, upper.new), (e2, lower.old, lower.new)], [upper, lower])
    told = w.var("told by F or P", show=w.show_content)
    one_node = w.bug("a flush that comes from above does not go down the chain")

    r = Request(w, "w1", 0, "the disk", 1)
    overlay, done = r.unique("overlay"), r.unique("done")
    top = r.enter(e1)
    r.choose("goes to the node it entered", lambda s: overlay if s[top] == upper.new.id else None)
    low = r.enter(e2)
    _one_side(w, r, "F, then O", lambda s: s[top] == upper.old.id, lambda s: s[low] == lower.new.id)
    r.store(lower.old)
    r.step("counts a generation of F; the client is told of F's write",
           lambda s: s.__setitem__(upper.old.write_gen, s[upper.old.write_gen] + 1) or s.__setitem__(told, 1))
    r.goto(done)
    r.label(overlay)
    r.step("writes to P; the client is told", lambda s: upper.new.put(s, 1, "w1") or s.__setitem__(told, 1))
    r.label(done)
    r.end()

    f = FlushRequest(w, "f1", 1, "the disk")
    overlay, done = f.unique("overlay"), f.unique("done")

    def below():
        to_old, out = f.unique("to old"), f.unique("out")
        pin = f.enter(e2, "flushes")
        f.choose("goes to the node it entered", lambda s: to_old if s[pin] == lower.old.id else None)
        if not one_node:
            f.flush_chain(lower, f.failed)
        f.goto(out)
        f.label(to_old)
        f.flush_node(lower.old, f.failed)
        f.label(out)

    top_f = f.enter(e1, "flushes", submit=lambda s: s.__setitem__(f.owed, s[told]))
    f.choose("goes to the node it entered", lambda s: overlay if s[top_f] == upper.new.id else None)
    f.flush_node(upper.old, f.failed, below)
    f.goto(done)
    f.label(overlay)
    f.flush_chain(upper, f.failed, below)
    f.label(done)
    f.reply(upper.new, lower.old, lower.new)

    # Settle flushes F with a request of its own, which is new and so goes to O.
    upper.old.flush_below = lambda control, failed: None if one_node else control.flush_chain(lower, failed)
    snapshot(w, change, fold=False)


# ---- fold

class _Plain(Request):
    """A request that does something to the node it entered; where it went is what matters."""

    def __init__(self, w, name, thread, disk, edge, bit, nodes, kind="writes"):
        super().__init__(w, name, thread, disk, bit)
        pin = self.enter(edge, kind)
        by_id = {n.id: n for n in nodes}

        def use(s):
            node = by_id[s[pin]]
            w.check_alive(s, node.id, name)
            if kind == "writes":
                node.put(s, bit, name)
        self.step("does its I/O in the node that it entered", use)
        self.end()


def twice(w):
    """A second change of the same edge follows the first: e leads to A, then to B, then to C."""
    a, b, c = (Node(w, x) for x in "ABC")
    edge = Edge(w, "e", a)
    first = Change(w, "change 1", [(edge, a, b)], [])
    second = Change(w, "change 2", [(edge, b, c)], [])
    for t, name in enumerate(("w1", "w2")):
        _Plain(w, name, t, "the disk", edge, 1 << t, (a, b, c))
    k = Control(w)
    for change in (first, second):
        k.arm(change)
        k.step("records that the group is committed", lambda s: None)
        k.cut(change)
        k.settle(change)
        k.fold(change)
    k.reply()


def old_node_goes(w):
    """The old node is a filter F above Q that the change removes: its last reference goes, and it is freed.  Settle does not wait
    for reads, closing does."""
    f, q = Node(w, "F"), Node(w, "Q")
    edge = Edge(w, "e", f)
    change = Change(w, "the change", [(edge, f, q)], [])
    _Plain(w, "w1", 0, "the disk", edge, 1, (f, q))
    _Plain(w, "r2", 1, "the disk", edge, 2, (f, q), "reads")
    k = Control(w)
    k.arm(change)
    k.cut(change)
    k.settle(change)
    k.fold(change)
    k.node_free(f)
    k.reply()


def edge_goes(w):
    """An edge is detached by another coroutine of the control thread, at any moment of a change."""
    a, b = Node(w, "A"), Node(w, "B")
    e1, e2 = Edge(w, "e1", a), Edge(w, "e2", a)
    change = Change(w, "the change", [(e1, a, b), (e2, a, b)], [])
    _Plain(w, "w1", 0, "the disk", e1, 1, (a, b))

    def unlink(s):
        if s[e2.pending]:
            s[e2.listed] = s[e2.pending] = 0
        s[e2.node] = 0
    other = Actor(w, "the owner of e2", "control")
    other.step("detaches e2", unlink)
    other.grace()
    other.step("e2 is freed", lambda s: s.__setitem__(e2.freed, 1))
    snapshot(w, change)


# ---- the list

# (scenario, {seeded bug: properties that may break})
CASES = [
    (copy_up, {
        "look before count": {"T6"},
        "no membarrier": {"T6"},
        "who waits sums without a membarrier of its own": {"T4", "T6", "progress"},
        "copies do not wait": {"T6"},
        "the barrier is set after the cut": {"T6"},
        "the barrier is lifted before the old requests have ended": {"T6"},
        "a copy counts as a write in the node that it reads": {"T4"},
        "who waits does not look again after it announced itself": {"T4", "progress"},
        "a request that moves to the new node does not wake who waits": {"T4", "progress"},
        "request_end wakes before it lowers the count": {"T4", "progress"},
        "pending is set before next": {"memory"},
        "pending is cleared without a grace period": {"T6"},
        "pending is cleared before the edge leads to the new node": {"T6"},
        "the change is freed without a grace period": {"memory"},
    }),
    (three_requests, {}),
    (two_edges, {
        "copies wait for the old requests of their own edge only": {"T6"},
    }),
    (padded_writes, {
        "the read of a padded write is not marked as a copy": {"T6"},
        "every child request decides for itself": {"T6"},
    }),
    (zero_status, {
        "block status is asked before the copy wait": {"T6"},
    }),
    (born_edge, {
        "an edge that is born between arm and cut is not armed": {"T6"},
        "an edge that is born after the cut joins the change": {"T6"},
    }),
    (nested, {
        "a nested edge does not look at the pins of the request": {"T1"},
        "copies wait for the node that they read only": {"T6"},
        "lower nodes first, each barrier by itself": {"T6"},
    }),
    (sisters, {
        "every node is settled by itself": {"T6"},
        "a barrier is lifted when its own node has no old requests": {"T6"},
    }),
    (group, {
        "the flip is made disk by disk": {"T1"},
        "a member is switched over when its own prepare has ended": {"T1", "T7"},
        "the record follows the cut": {"T7"},
        "the edges are frozen while files are created": {"T4"},
    }),
    (range_lock_above, {
        "an edge is entered before a range lock above it is taken": {"T4"},
        "the range lock is taken for every piece of a request": {"T4"},
    }),
    (reads_below_overlay, {
        "what is read below a backing edge counts as a write": {"T4"},
    }),
    (flushes, {
        "a flush of the overlay does not flush the old node": {"T5"},
        "settle flushes before the old requests have ended": {"T5"},
        "'not known flushed' is set after the cut": {"T5"},
        "a flush of the overlay marks the old node as flushed": {"T5"},
        "a flush takes the generation that it makes durable when it ends": {"T5"},
        "a write counts its generation when it begins": {"T5"},
        "a flush of the overlay counts as a flush in the old node": {"T2"},
    }),
    (two_flushes, {
        "a failed flush is not sticky": {"T5"},
        "a flush that waited for another does not look whether that failed": {"T5"},
        "settle calls the old node flushed although the flush failed": {"T5"},
    }),
    (flush_above, {
        "a flush that comes from above does not go down the chain": {"T5"},
    }),
    (nested_flush, {
        "a flush that comes from above does not go down the chain": {"T5"},
    }),
    (twice, {
        "an edge is armed again without a grace period": {"T1"},
    }),
    (edge_goes, {
        "the change keeps an edge in its list that has forgotten it": {"memory"},
    }),
    (old_node_goes, {
        "request_end is not in a read section": {"memory"},
        "a node is freed without a grace period": {"memory"},
    }),
]
