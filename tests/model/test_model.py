#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs the cases of scenarios.py and prints TAP.

A case is a scenario as built, which must hold in every reachable state, or a scenario with a seeded bug, which must be found and break
the property that its list names.  A last test says that no step of the protocol was never taken: such a step would not be checked.
"""
import argparse
import multiprocessing
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from explore import explore  # noqa: E402
from scenarios import CASES  # noqa: E402
from world import World      # noqa: E402

# Each of these properties must have a seeded bug that breaks it and is found.
MUST_BE_BROKEN = {"T1", "T4", "T5", "T6"}


def all_cases():
    """(scenario's number, seeded bug or None)"""
    return [(i, bug) for i, (_, bugs) in enumerate(CASES) for bug in [None, *bugs]]


def title(case):
    scenario = CASES[case[0]][0]
    return scenario.__name__ + (": as built" if case[1] is None else f", seeded: {case[1]}")


def run(case):
    number, bug = case
    scenario, bugs = CASES[number]
    w = World(scenario.__name__, [bug] if bug else [])
    scenario(w)
    w.finish()
    out = {"case": case, "taken": set(), "not_taken": set(), "path": None, "prop": None}
    if bug is not None and bug not in w.known_bugs:
        out["error"] = "no such bug in this scenario"
        return out
    r = explore(w)
    out.update(states=r.states, steps=r.steps, seconds=r.seconds, prop=r.prop, text=r.text, path=r.path)
    if bug is None:
        out.update(taken=r.taken, not_taken=r.not_taken)
        out["error"] = f"{r.prop} is broken: {r.text}" if r.prop else None
    elif r.prop is None:
        out["error"] = "the seeded bug is not found"
    elif r.prop not in bugs[bug]:
        out["error"] = f"expected {' or '.join(sorted(bugs[bug]))} to break, but {r.prop} did: {r.text}"
    else:
        out["error"] = None
    return out


def tell_path(path):
    for n, (who, what, changes) in enumerate(path, 1):
        print(f"#   {n:2d}. {who}: {what}" + (f"   ({'; '.join(changes)})" if changes else ""))


def main():
    p = argparse.ArgumentParser(description="Explores every interleaving of the cut protocol.")
    p.add_argument("-v", "--verbose", action="store_true", help="tell the shortest counterexample of every seeded bug in words")
    p.add_argument("-l", "--list", action="store_true", help="list the cases")
    p.add_argument("-j", "--jobs", type=int, default=min(2, len(os.sched_getaffinity(0))), help="processes (at most 2 by default)")
    p.add_argument("words", nargs="*", help="run only cases whose title contains one of these")
    args = p.parse_args()

    cases = [c for c in all_cases() if not args.words or any(x in title(c) for x in args.words)]
    if args.list:
        for c in cases:
            print(title(c))
        return 0
    if not cases:
        print("no such case", file=sys.stderr)
        return 2
    whole = not args.words
    print("TAP version 13")
    print(f"1..{len(cases) + 2 * whole}", flush=True)
    failed = 0
    found, taken, not_taken = set(), set(), set()
    with multiprocessing.Pool(args.jobs) as pool:
        for n, r in enumerate(pool.imap(run, cases), 1):
            case = r["case"]
            print(f"{'not ok' if r['error'] else 'ok'} {n} - {title(case)}")
            if "states" in r:
                print(f"# {r['states']} states, {r['steps']} steps, {r['seconds']:.1f} s")
            if r["error"]:
                failed += 1
                print(f"# {r['error']}")
            elif r["prop"]:
                found.add(r["prop"])
                print(f"# found: {r['prop']}: {r['text']} (after {len(r['path'])} steps)")
            if r["path"] and (args.verbose or r["error"]):
                tell_path(r["path"])
            taken |= r["taken"]
            not_taken |= r["not_taken"]
            sys.stdout.flush()
    if whole:
        missing = MUST_BE_BROKEN - found
        print(f"{'not ok' if missing else 'ok'} {len(cases) + 1} - a seeded bug breaks each of {' '.join(sorted(MUST_BE_BROKEN))}")
        if missing:
            print(f"# none breaks {' '.join(sorted(missing))}")
        never = not_taken - taken
        print(f"{'not ok' if never else 'ok'} {len(cases) + 2} - every step is taken in some case as built")
        for text in sorted(never):
            print(f"# never: {text}")
        failed += bool(missing) + bool(never)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
