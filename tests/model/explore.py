# SPDX-License-Identifier: BSD-3-Clause
"""
An explicit-state model checker: visits every state that a few processes can reach, in breadth-first order.

Words
  state      one byte for every variable, then one program counter for every process; `bytes`, so hashing and copying are cheap
             and a variable holds 0..255.
  step       what a process does at once.  Nothing of another process happens within a step; between any two steps anything can,
             except where the second is a `then` step (see below).
  process    a list of steps, run on a thread.  A thread runs coroutines: a process keeps its thread from a step to a `then`
             step after it; before every other step it may yield to the others of its thread.
  guard      the condition (`when`) under which a step can be taken.  A process at a step whose guard is false waits.
  group      the processes that belong together (the requests of a disk), for the waiting rule.

What is checked in every state
  - the invariants of the model, and what steps themselves find wrong (they raise Violation);
  - the waiting rule, T4: if a request of a group waits, then some process of the same group can take a step.  As every order is
    explored, also those in which nobody outside of the group ever moves again, this says that a group's requests end without
    help from outside: from the control thread, from the creation of files, from the flush of somebody else, from another group;
  - progress: where no step can be taken any more every process has ended.

Breadth first, so the counterexample that is found is a shortest one.  It is told in words: the text of each step and the
variables that it changed.
"""
import time


class Violation(Exception):
    """A step or an invariant found a property broken."""

    def __init__(self, prop, text):
        super().__init__(text)
        self.prop = prop
        self.text = text


class Step:
    __slots__ = ("text", "do", "when", "then", "permitted", "local", "goto")

    def __init__(self, text, do, when=None, then=False, permitted=False, local=False, goto=None):
        self.text = text
        self.do = do                # do(bytearray): changes the state; returns None (go on) or a label
        self.when = when            # when(bytes): may the step be taken?  None: always
        self.then = then            # follows the step before without a yield
        self.permitted = permitted  # waiting here is not held against T4
        self.local = local          # touches nothing that another process or an invariant looks at
        self.goto = goto            # a label: not a step of its own, the one before is followed by the one at the label


class Process:
    """A list of steps.  kind: "actor" must come to its end; "background" moves by itself as long as it can (store buffers);
    "optional" may move or not, now or never (faults, observers), so nobody can count on it."""

    def __init__(self, model, name, thread, group=None, kind="actor"):
        self.model = model
        self.name = name
        self.thread = thread
        self.group = group
        self.kind = kind
        self.steps = []
        self.labels = {}
        self._unique = 0
        model.processes.append(self)

    def step(self, text, do, when=None, permitted=False):
        self.steps.append(Step(text, do, when, permitted=permitted))

    def choose(self, text, do):
        """A step that only looks at and changes the process's own variables.  Steps of others commute with it, so it is taken at
        once and alone: a reduction that loses no violation."""
        self.steps.append(Step(text, do, local=True))

    def then(self, text, do):
        """A step that follows without a yield: no guard, it cannot wait."""
        assert self.steps
        self.steps.append(Step(text, do, then=True))

    def goto(self, label):
        assert self.steps
        self.steps.append(Step(None, None, goto=label))

    def label(self, name):
        assert name not in self.labels, name
        self.labels[name] = len(self.steps)

    def at(self, pc):
        """Where the process really is when it is sent to step number pc."""
        while pc < len(self.steps) and self.steps[pc].goto is not None:
            pc = self.labels[self.steps[pc].goto]
        return pc

    def unique(self, stem):
        self._unique += 1
        return f"{stem}.{self._unique}"


class Model:
    """Variables, processes, invariants."""

    def __init__(self, name):
        self.name = name
        self.names = []
        self.init = []
        self.shows = []
        self.processes = []
        self.invariants = []  # f(state): raises Violation

    def var(self, name, init=0, show=str):
        """Declares a variable of one byte; returns its index in the state.  show(value): how a trace prints it."""
        assert 0 <= init <= 255
        self.names.append(name)
        self.init.append(init)
        self.shows.append(show)
        return len(self.names) - 1


class Result:
    def __init__(self, model):
        self.model = model
        self.states = 0
        self.steps = 0
        self.seconds = 0.0
        self.prop = None   # the property broken
        self.text = None
        self.path = None   # [(process name, step text, [changes])]
        self.taken = set()     # texts of steps that were taken at least once
        self.not_taken = set()  # and of those that never were


def _compile(model):
    base = len(model.names)
    compiled = []
    for i, p in enumerate(model.processes):
        assert not p.steps[0].then
        steps = [(s.when, s.do, s.permitted, p.at(pc + 1)) for pc, s in enumerate(p.steps)] + [None]
        local = [s.local for s in p.steps] + [False]
        labels = {name: p.at(pc) for name, pc in p.labels.items()}
        siblings = [(base + j, [s.then for s in q.steps] + [False])
                    for j, q in enumerate(model.processes)
                    if j != i and p.thread is not None and q.thread == p.thread]
        compiled.append((1 << i, base + i, steps, labels, siblings, local))
    return compiled


def _busy(state, siblings):
    for index, then in siblings:
        if then[state[index]]:
            return True
    return False


def _alone(state, locals_):
    """The process, if there is one, whose next step concerns nobody else."""
    for entry, index, local, siblings in locals_:
        if local[state[index]] and not _busy(state, siblings):
            return entry
    return None


def explore(model, limit=4_000_000):
    """Visits every reachable state; stops at the first violation.  More than `limit` states is an error of the model."""
    result = Result(model)
    started = time.monotonic()
    procs = _compile(model)
    everybody = list(enumerate(procs))
    locals_ = [([entry], entry[1][1], entry[1][5], entry[1][4]) for entry in everybody if any(entry[1][5])]
    groups = {}
    must_end = background = optional = 0
    for (bit, *_), p in zip(procs, model.processes):
        if p.group is not None:
            groups[p.group] = groups.get(p.group, 0) | bit
        if p.kind == "actor":
            must_end |= bit
        elif p.kind == "background":
            background |= bit
        else:
            optional |= bit
    groups = list(groups.items())
    init = bytes(model.init) + bytes(len(procs))
    parent = {init: None}
    frontier = [init]
    taken = [set() for _ in procs]
    transitions = 0
    invariants = model.invariants

    def fail(prop, text, last, step_of=None):
        result.prop, result.text = prop, text
        result.path = _path(model, procs, parent, last, step_of)

    try:
        for check in invariants:
            check(init)
        state = init
        while frontier:
            reached = []
            for state in frontier:
                able = waiting = ended = 0
                alone = _alone(state, locals_)
                for n, (bit, index, steps, labels, siblings, _) in alone or everybody:
                    pc = state[index]
                    step = steps[pc]
                    if step is None:
                        ended |= bit
                        continue
                    when, do, permitted, after = step
                    if siblings and _busy(state, siblings):
                        able |= bit
                        continue
                    if when is not None and not when(state):
                        if pc and not permitted:
                            waiting |= bit
                        continue
                    able |= bit
                    s = bytearray(state)
                    try:
                        jump = do(s)
                    except Violation as v:
                        taken[n].add(pc)
                        fail(v.prop, v.text, state, n)
                        return result
                    transitions += 1
                    taken[n].add(pc)
                    s[index] = after if jump is None else labels[jump]
                    new = bytes(s)
                    if new not in parent:
                        parent[new] = state
                        reached.append(new)
                        try:
                            for check in invariants:
                                check(new)
                        except Violation as v:
                            fail(v.prop, v.text, new)
                            return result
                if alone:
                    continue
                if waiting and not able & background:
                    for name, mask in groups:
                        if waiting & mask and not able & mask:
                            who = [f"{p.name} ({p.steps[state[i]].text})"
                                   for (b, i, *_), p in zip(procs, model.processes) if b & waiting & mask]
                            fail("T4", f"{', '.join(who)} waits, and no request of {name} can do anything about it", state)
                            return result
                if not able & ~optional and must_end & ~ended:
                    who = [f"{p.name} ({p.steps[state[i]].text})"
                           for (b, i, *_), p in zip(procs, model.processes) if b & must_end & ~ended]
                    fail("progress", f"nothing can go on; waiting: {', '.join(who)}", state)
                    return result
            if len(parent) > limit:
                raise RuntimeError(f"{model.name}: more than {limit} states")
            frontier = reached
    finally:
        result.states = len(parent)
        result.steps = transitions
        result.seconds = time.monotonic() - started
        for p, done in zip(model.processes, taken):
            for pc, s in enumerate(p.steps):
                if s.goto is None:
                    (result.taken if pc in done else result.not_taken).add(s.text)
    return result


def _path(model, procs, parent, last, extra):
    """The way from the initial state to `last`, and then the failing step of process number `extra`, if there is one."""
    states = [last]
    while parent[states[-1]] is not None:
        states.append(parent[states[-1]])
    states.reverse()
    path = []
    for before, after in zip(states, states[1:]):
        path.append(_explain(model, procs, before, after))
    if extra is not None:
        p = model.processes[extra]
        path.append((_who(p), p.steps[last[procs[extra][1]]].text, []))
    return path


def _who(p):
    return p.name if p.thread is None else f"{p.name} [{p.thread}]"


def _explain(model, procs, before, after):
    for (_, index, steps, labels, siblings, _), p in zip(procs, model.processes):
        pc = before[index]
        step = steps[pc]
        if step is None or (step[0] is not None and not step[0](before)) or _busy(before, siblings):
            continue
        s = bytearray(before)
        try:
            jump = step[1](s)
        except Violation:
            continue
        s[index] = step[3] if jump is None else labels[jump]
        if bytes(s) == after:
            changes = [f"{name}: {show(b)} -> {show(a)}"
                       for name, show, b, a in zip(model.names, model.shows, before, after)
                       if a != b and not name.startswith(".")]
            return _who(p), p.steps[pc].text, changes
    raise AssertionError("a state without a way to it")
