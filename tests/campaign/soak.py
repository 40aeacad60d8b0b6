"""The soak: a steady, mixed load for a long time, random faults, workers killed now and then; what grows, leaks.

    make soak ARGS="--minutes 30"

One worker is never killed, and its memory, threads and descriptors are looked at. The exit code is 1 when anything is
lost, a duplicate has no reason, or that worker has more threads or sockets at the end than at the start.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from support.emulators import run_moto

from campaign.app import GROUPS, PLAIN
from campaign.faults import KINDS
from campaign.fleet import Fleet, Tail, end_tidily, fleet
from campaign.journal import JournalProxy
from campaign.kinds import OPTIONS, VISIBILITY_S, until_calm
from campaign.ledger import expected_of, judge
from campaign.process import Usage, cpu_s, usage

#: The worker that is never killed.
OLD = "old"
_FAULTS = [name for name in KINDS if name not in ("none", "delayed-effect", "credentials", "clock")]
_FAULT_S = 6.0
_TICK_S = 0.5
_SAMPLE_S = 30.0
_WARM_S = 60.0
_PATIENCE_S = 180.0
#: How many threads and sockets more than at the start are no leak: pollers and connections come and go with the load.
_SLACK = 12


class Soak:
    """One run."""

    def __init__(self, crew: Fleet, proxy: JournalProxy, seconds: float, kill_every_s: float) -> None:
        self._crew = crew
        self._proxy = proxy
        self._ends = time.monotonic() + seconds
        self._kill_every_s = kill_every_s
        self.samples: list[tuple[float, Usage]] = []
        self.faults: Counter[str] = Counter()
        self.cpu_of_old_s = 0.0

    def run(self) -> None:
        """Faults, kills and samples, until the time is over."""
        begun = time.monotonic()
        next_kill, next_fault, next_sample = (begun + each for each in (self._kill_every_s, 3.0, min(_WARM_S, 15.0)))
        random_ = random.Random()
        while (now := time.monotonic()) < self._ends:
            if now >= next_fault:
                self._inject(random_.choice([*_FAULTS, "outage", "none", "none"]))
                next_fault = now + _FAULT_S
            if now >= next_kill:
                self._crew.kill_next(spare=OLD)
                next_kill = now + self._kill_every_s
            if now >= next_sample:
                self.sample(now - begun)
                next_sample = now + _SAMPLE_S
            gone = self._crew.ended()
            assert not gone, "\n".join(gone)
            time.sleep(_TICK_S)
        self._inject("none")

    def _inject(self, name: str) -> None:
        self._proxy.swallow(name == "outage")
        self._proxy.rules = KINDS["none" if name == "outage" else name].rules
        self.faults[name] += 1

    def sample(self, at_s: float) -> None:
        """Look at the worker that is never killed."""
        pid = self._crew.worker(OLD).process.pid
        self.samples.append((at_s, usage(pid)))
        self.cpu_of_old_s = cpu_s([pid])
        print(f"{at_s:7.0f} s  {self.samples[-1][1]}", flush=True)


def _until_all_ran(crew: Fleet) -> None:
    """Wait for what was accepted."""
    done: set[tuple[str, int]] = set()
    tail = Tail(crew.folder / "runs")
    deadline = time.monotonic() + _PATIENCE_S
    expected = {(group, number) for group, numbers in expected_of(crew.published()).items() for number in numbers}
    while not expected <= done and time.monotonic() < deadline:
        done |= {(run["group"], run["number"]) for run in tail.new()}
        time.sleep(_TICK_S)
    until_calm(crew, VISIBILITY_S)


def _verdict(crew: Fleet, proxy: JournalProxy, soak: Soak) -> bool:
    """Print what came of it; whether all is well."""
    published, runs = crew.published(), crew.runs()
    verdict = judge(expected_of(published), runs, published, crew.kills, proxy.of, logs=crew.logs())
    kinds = Counter(entry["kind"] for entry in published if not entry["error"])
    first, last = soak.samples[0][1], soak.samples[-1][1]
    duplicates = ", ".join(f"{count} {reason}" for reason, count in verdict.duplicates.most_common() if count)
    for label, value in {
        "messages": f"{sum(kinds.values())} ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})",
        "runs": len(runs),
        "faults": f"{proxy.spoiled} requests ({', '.join(f'{n} x {name}' for name, n in soak.faults.most_common())})",
        "kills": len(crew.kills),
        "not accepted": sum(bool(entry["error"]) for entry in published),
        "lost": sum(map(len, verdict.lost.values())),
        "duplicates": f"{verdict.duplicates.total()} ({duplicates})",
        "memory": f"{first.memory_mib:.1f} MiB at the start, {last.memory_mib:.1f} MiB at the end",
        "threads": f"{first.threads} at the start, {last.threads} at the end",
        "sockets": f"{first.sockets} at the start, {last.sockets} at the end",
        "descriptors": f"{first.descriptors} at the start, {last.descriptors} at the end",
        "CPU of the old worker": f"{soak.cpu_of_old_s:.0f} s",
    }.items():
        print(f"{label:22} {value}")
    for example in verdict.examples[:10]:
        print("   ", example)
    for group, numbers in verdict.lost.items():
        if numbers:
            print("lost in", group, numbers[:20])
    return verdict.is_good and last.threads <= first.threads + _SLACK and last.sockets <= first.sockets + _SLACK


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=5.0, help="messages per second")
    parser.add_argument("--kill-every", type=float, default=25.0, metavar="SECONDS")
    parser.add_argument("--keep", type=Path, help="folder for logs and ledgers")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        emulator = stack.enter_context(run_moto())
        proxy = stack.enter_context(JournalProxy(emulator.endpoint_url, rules=KINDS["none"].rules))
        seen = replace(emulator, port=int(proxy.endpoint_url.rpartition(":")[2]))
        crew = stack.enter_context(fleet(seen.url(f"s{uuid4().hex[:8]}"), OPTIONS, folder))
        crew.start(1, "-P", "prefork", "-c", "2", more={OLD: ",".join([*GROUPS, PLAIN])})
        crew.load(60 * options.minutes, options.rate)
        soak = Soak(crew, proxy, 60 * options.minutes, options.kill_every)
        soak.run()
        while crew.is_publishing():
            time.sleep(_TICK_S)
        _until_all_ran(crew)
        soak.sample(60 * options.minutes)
        return 0 if _verdict(crew, proxy, soak) else 1


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
