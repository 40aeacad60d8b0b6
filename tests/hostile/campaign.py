"""Hostile messages at real workers: one by one, in bulk among good tasks, and what grows with many distinct ones.

Run it in ``tests/``::

    python -m hostile.campaign                                    # all of it: hours on two cores
    python -m hostile.campaign one-by-one --pools threads --dead-letters yes --count 350
    python -m hostile.campaign one-by-one --only 'number-*' --only 'code/*'
    python -m hostile.campaign bulk --count 5000
    python -m hostile.campaign growth --count 10000

``one-by-one`` sends each message and then a good task, to workers of each pool, with and without dead-letter queues.
``bulk`` mixes hostile messages with as many good tasks and counts requests. ``growth`` prints memory and size of the
log. What counts as a fault is in ``hostile/judging.py``. The exit code is 1 when there was a fault.

Times are judged by the five seconds that a good task may wait, multiplied by HAKE_HOSTILE_PATIENCE (default 4; a quiet
machine needs 1). Logs stay in the folder of ``--keep``.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from campaign.fleet import end_tidily
from support.emulators import Emulator, run_ministack, run_moto

from hostile.arena import POOLS, Arena, arena
from hostile.corpus import Hostile, corpus, selection
from hostile.judging import bulk, growth, one_by_one, totals

MODES = ("one-by-one", "bulk", "growth")
_GROWTH_AT = (1_000, 5_000, 10_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="mode", help=f"of {', '.join(MODES)}; all where none is given")
    parser.add_argument("--pools", nargs="+", choices=list(POOLS), default=list(POOLS))
    parser.add_argument("--dead-letters", choices=["yes", "no", "both"], default="both")
    parser.add_argument("--count", type=int, help="how many messages; all, 5000 and 10000 where not given")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="one-by-one: names of messages, with *")
    parser.add_argument("--most-requests", type=float, default=2.0, help="bulk: as a multiple of those of good ones")
    parser.add_argument("--emulator", choices=["moto", "ministack"], default="moto")
    parser.add_argument("--keep", type=Path, help="folder for logs")
    options = parser.parse_args(arguments)
    modes = options.modes or MODES
    if unknown := set(modes) - set(MODES):
        parser.error(f"unknown mode {', '.join(unknown)}")
    has_fault = False
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for mode in modes:
            run = {"one-by-one": _one_by_one, "bulk": _bulk, "growth": _growth}[mode]
            for where, running in _arenas(options, folder / mode):
                print(f"=== {mode}, {where}", flush=True)
                has_fault |= run(running, options)
    return int(has_fault)


def _arenas(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Arena]]:
    """A fresh emulator and worker for each pool, with and without dead-letter queues."""
    wanted = {"yes": [True], "no": [False], "both": [True, False]}[options.dead_letters]
    for pool, dead_letters in product(options.pools, wanted):
        where = f"{pool}, {'with' if dead_letters else 'without'} dead-letter queues"
        own = folder / f"{pool}-{'dead-letters' if dead_letters else 'plain'}"
        own.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            emulator: Emulator = stack.enter_context(
                run_moto() if options.emulator == "moto" else run_ministack(own / "ministack")
            )
            yield where, stack.enter_context(arena(emulator, own, pool, dead_letters=dead_letters))


def _chosen(options: argparse.Namespace) -> Sequence[Hostile]:
    messages = corpus() if options.count is None else selection(options.count)
    if not options.only:
        return messages
    return [one for one in corpus() if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in options.only)]


def _one_by_one(running: Arena, options: argparse.Namespace) -> bool:
    findings = one_by_one(running, _chosen(options), _unbuffered)
    for label, value in totals(findings).items():
        print(f"{label:32} {value}")
    print("messages with faults:")
    for finding in findings:
        if finding.faults:
            print("   ", finding.name, "--", "; ".join(finding.faults))
    return any(finding.faults for finding in findings)


def _bulk(running: Arena, options: argparse.Namespace) -> bool:
    found = bulk(running, options.count or 5_000, report=_unbuffered)
    faults = found.faults(options.most_requests)
    print(f"hostile {found.hostile}, good {found.good}, longest wait of a good task {found.waited_s:.2f} s")
    for phase, requests in found.requests.items():
        shown = ", ".join(f"{name} {count:.0f}" for name, count in sorted(requests.items()))
        print(f"requests, {phase:10} {sum(requests.values()):8.0f}  ({shown})")
    print(f"times the requests of the good tasks alone           {found.ratio('good'):.2f}")
    print(f"times the requests with good ones for hostile ones   {found.ratio('all good'):.2f}")
    for fault in faults:
        print("FAULT", fault)
    return bool(faults)


def _growth(running: Arena, options: argparse.Namespace) -> bool:
    last = options.count or _GROWTH_AT[-1]
    at = [count for count in _GROWTH_AT if count < last] + [last]
    samples = growth(running, at, report=_unbuffered)
    return samples[-1].restarts > 0


_unbuffered: Callable[[object], None] = lambda line: print(line, flush=True)  # noqa: E731


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
