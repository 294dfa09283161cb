# SPDX-License-Identifier: BSD-3-Clause
"""
The control thread's side of the cut: block/change.c, and around it the phases of a transaction.

A transaction is plan, prepare, [record,] cut, settle, fold.  Every step() may follow a yield, in which other coroutines of the
control thread run; then() steps do not.
"""
from explore import Violation
from world import CUT, FREED, Actor


class Change:
    """members: (edge, old node, new node), uppermost edges first.  disks: whose barrier the change sets."""

    def __init__(self, world, name, members, disks):
        self.name = name
        self.members = members
        self.disks = disks
        self.olds = list(dict.fromkeys(old for _, old, _ in members))
        self.new_ids = {new.id for _, _, new in members}
        world.changes.append(self)
        self.id = len(world.changes) - 1
        self.state = world.var(f"{name}.state", 0, world.show_state)


class Control(Actor):
    def __init__(self, world):
        super().__init__(world, "control", "control")

    # ---- change_arm(), change_cut()

    def arm(self, *changes):
        """Nothing that is visible to requests, but where they will go."""
        w = self.w
        late_barrier = w.bug("the barrier is set after the cut")
        late_flag = w.bug("'not known flushed' is set after the cut")
        pending_first = w.bug("pending is set before next")
        for c in changes:
            def flags(s, c=c):
                for d in c.disks:
                    if not late_barrier:
                        s[d.barrier] = 1
                for n in c.olds:
                    if n.flushing and not late_flag:
                        s[n.unflushed_old] = 1
            self.step(f"arms {c.name}: sets barriers, marks old nodes as not known flushed", flags)
            for edge, _, new in c.members:
                def set_next(s, edge=edge, new=new):
                    if s[edge.node]:
                        s[edge.next] = new.id

                def set_pending(s, edge=edge, c=c):
                    if s[edge.node]:
                        s[edge.pending] = c.id
                        s[edge.listed] = 1
                steps = [(f"{edge.name}.next = {new.name}", set_next), (f"{edge.name}.pending = {c.name}", set_pending)]
                for text, do in reversed(steps) if pending_first else steps:
                    self.then(text, do)

    def cut(self, *changes, also=None):
        """One store.  More than one change: a seeded bug, a flip for each disk.  also(state, change): what flips with it for the
        control thread."""
        w = self.w
        late_barrier = w.bug("the barrier is set after the cut")
        late_flag = w.bug("'not known flushed' is set after the cut")
        for n, c in enumerate(changes):
            def store(s, c=c):
                s[c.state] = CUT
                if also is not None:
                    also(s, c)
            (self.step if n else self.then)(f"cuts {c.name}", store)
        if late_barrier or late_flag:
            def late(s):
                for c in changes:
                    for d in c.disks:
                        s[d.barrier] = 1
                    for node in c.olds:
                        if node.flushing:
                            s[node.unflushed_old] = 1
            self.then("sets barriers, marks old nodes as not known flushed", late)
        if not w.bug("no membarrier"):
            self.barrier_heavy()

    # ---- change_settle(), change_fold()

    def settle(self, *changes):
        """Old requests end; only when none of the whole change is left are barriers lifted, nodes flushed and made read-only.  A
        failed flush leaves its node "not known flushed"; the group is degraded."""
        w = self.w
        singly = w.bug("every node is settled by itself")
        early_flush = w.bug("settle flushes before the old requests have ended")
        early_barrier = w.bug("the barrier is lifted before the old requests have ended")
        each_barrier = (w.bug("a barrier is lifted when its own node has no old requests") or
                        w.bug("lower nodes first, each barrier by itself"))

        def lift(disks):
            def f(s):
                for d in disks:
                    s[d.barrier] = 0
            self.step("lifts " + " ".join(f"the barrier of {d.new.name}->{d.old.name}" for d in disks), f)

        nodes = [n for c in changes for n in c.olds]
        disks = [d for c in changes for d in c.disks]
        if early_barrier:
            lift(disks)
        if early_flush:
            for n in nodes:
                self._flush_old(n)
        for n in nodes:
            self.wait_zero(n, "settle")
            mine = [d for d in disks if d.old is n]
            if each_barrier and mine:
                lift(mine)
            if singly:
                self.freeze(n)
        if disks and not early_barrier and not each_barrier:
            lift(disks)
        for n in nodes:
            if n.flushing and not early_flush:
                self.wait_zero(n, "settle", ("writes", "flushes"))
                self._flush_old(n)
            if not singly:
                self.freeze(n)

    def _flush_old(self, node):
        if not node.flushing:
            return
        failed = self.local(f"flush of {node.name} failed")
        anyway = self.w.bug("settle calls the old node flushed although the flush failed")
        self.flush_node(node, failed, getattr(node, "flush_below", None) and (lambda: node.flush_below(self, failed)))

        def known(s):
            if not s[failed] or anyway:
                s[node.unflushed_old] = 0
            s[failed] = 0
        self.step(f"looks how the flush of {node.name} ended; if well, {node.name} is known flushed", known)

    def freeze(self, node):
        def f(s):
            s[node.read_only] = 1
        self.step(f"makes {node.name} read-only", f)

    def fold(self, change):
        """Edges point straight at the new nodes; whoever still saw them pending leaves; the change is freed."""
        w = self.w
        pending_first = w.bug("pending is cleared before the edge leads to the new node")

        keeps = w.bug("the change keeps an edge in its list that has forgotten it")

        def straight(s):
            for edge, _, _ in change.members:
                if s[edge.pending] == change.id:
                    s[edge.node] = s[edge.next]

        def tell(s, edge):
            if s[edge.freed]:
                raise Violation("memory", f"fold tells the owner of {edge.name}, which is freed")

        def clear(s):
            for edge, _, _ in change.members:
                if s[edge.pending] == change.id:
                    s[edge.pending] = 0
                    if not keeps:
                        tell(s, edge)

        def tell_late(s):
            for edge, _, _ in change.members:
                if s[edge.listed]:
                    tell(s, edge)

        def straight_late(s):
            for edge, _, new in change.members:
                if s[edge.node]:
                    s[edge.node] = new.id

        def free(s):
            s[change.state] = FREED

        if pending_first:
            self.step("edges forget the change", clear)
            self.grace()
            self.step("edges lead straight to the new nodes", straight_late)
        else:
            self.step("edges lead straight to the new nodes", straight)
            if not w.bug("pending is cleared without a grace period"):
                self.grace()
            self.step("edges forget the change; owners are told", clear)
        early_free = w.bug("the change is freed without a grace period")
        early_arm = w.bug("an edge is armed again without a grace period")
        if not early_free and not early_arm:
            self.grace()
        if keeps:
            self.step("owners are told", tell_late)
        if not early_arm:
            self.step(f"{change.name} is freed", free)

    def reply(self):
        self.step("the transaction is replied to", lambda s: None)

    def node_free(self, node):
        """The last reference to an old node goes: requests in it end, a grace period, and its memory is freed."""
        self.wait_zero(node, "close", ("writes", "reads"))
        if not self.w.bug("a node is freed without a grace period"):
            self.grace()

        def free(s):
            for counter in node.writes + node.reads:
                if s[counter]:
                    raise Violation("memory", f"{node.name} is freed with requests in it")
            s[node.freed] = 1
        self.step(f"{node.name} is freed", free)
