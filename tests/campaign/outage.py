"""An outage in mid-load, with the options' defaults: what is lost, when it goes on, what the workers' CPU was.

    make outage ARGS="--kind black-hole --seconds 120"

Two publishers: one is cut off like the workers, one is not, so that there is always something to consume. The exit code
is 1 when anything is lost, a group takes longer than five seconds to run its next task after the end, or a publisher
got anything but kombu's OperationalError.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from support.emulators import Emulator, run_moto
from support.proxy_rules import Rule

from campaign.app import GROUPS, HOST_NAME, NO_DNS
from campaign.fleet import Fleet, Tail, end_tidily, fleet
from campaign.journal import JournalProxy
from campaign.ledger import Verdict, expected_of, judge
from campaign.process import cpu_s

#: How long after its end an outage may still be felt.
LIMIT_S = 5.0
_QUIET_S = 10.0
_CALM = (Rule("delay", probability=0.0),)  # there is a rule, so the journal is written
_UNAFFECTED = 1_000_000


@dataclass
class Outage:
    """What one outage came to; times in seconds."""

    kind: str
    seconds: float
    resumed_s: dict[str, float]
    cpu_share: float
    idle_cpu_share: float
    longest_publish_s: float
    refused: int
    verdict: Verdict

    @property
    def is_good(self) -> bool:
        """Whether nothing is lost and all go on in time."""
        return self.verdict.is_good and max(self.resumed_s.values()) <= LIMIT_S

    def text(self) -> str:
        """For people."""
        resumed = ", ".join(f"{group} {seconds:.1f} s" for group, seconds in self.resumed_s.items())
        duplicates = ", ".join(f"{count} {reason}" for reason, count in self.verdict.duplicates.items() if count)
        return (
            f"{self.kind}, {self.seconds:.0f} s: lost {sum(map(len, self.verdict.lost.values()))}; consuming again "
            f"after {resumed}; CPU of a worker {self.cpu_share:.2%} of a core meanwhile "
            f"({self.idle_cpu_share:.2%} under load before); {self.refused} publishes raised, the longest after "
            f"{self.longest_publish_s:.1f} s; duplicates {self.verdict.duplicates.total()} {duplicates}"
        )


def _swallow(proxy: JournalProxy, folder: Path, yes: bool) -> None:
    proxy.swallow(yes)


def _refuse(proxy: JournalProxy, folder: Path, yes: bool) -> None:
    proxy.refuse() if yes else proxy.accept()


def _no_dns(proxy: JournalProxy, folder: Path, yes: bool) -> None:
    if yes:
        (folder / NO_DNS).touch()
        proxy.refuse()  # open connections need no name
        proxy.accept()
    else:
        (folder / NO_DNS).unlink()


def _answer(rule: Rule) -> Callable[[JournalProxy, Path, bool], None]:
    def act(proxy: JournalProxy, folder: Path, yes: bool) -> None:
        proxy.rules = (rule,) if yes else _CALM

    return act


KINDS: Mapping[str, Callable[[JournalProxy, Path, bool], None]] = {
    "black-hole": _swallow,
    "refused": _refuse,
    "dns": _no_dns,
    "503": _answer(Rule("status", status=503)),
    "throttled": _answer(Rule("throttle")),
    "expired": _answer(Rule("expired")),
}


def run(
    kind: str, seconds: float, emulator: Emulator, folder: Path, *, rate: float = 2.0, workers: int = 1,
    options: Mapping[str, Any] | None = None, patience_s: float = 300.0, quiet_s: float = _QUIET_S,
) -> Outage:  # fmt: skip
    """One outage.

    Args:
        options: Transport options that differ from the defaults.
        quiet_s: Seconds of load before and after.
        patience_s: How long all that was accepted may take to run, from the end of the outage.
    """
    with ExitStack() as stack:
        proxy = stack.enter_context(JournalProxy(emulator.endpoint_url, rules=_CALM))
        namespace = f"o{uuid4().hex[:8]}"
        query = urlencode({"region": emulator.region, "is_secure": "false"})
        broker = f"hake://test:test@{HOST_NAME}:{proxy.endpoint_url.rpartition(':')[2]}/{namespace}?{query}"
        crew = stack.enter_context(fleet(broker, options or {}, folder))
        crew.start(workers, "-P", "prefork", "-c", "2")
        lasting = 2 * quiet_s + seconds
        crew.load(lasting, rate, "--kinds", "event")
        crew.load(lasting, rate, "--kinds", "event", "--first", str(_UNAFFECTED), broker=emulator.url(namespace))
        pids = [pid for worker in crew.all_workers() for pid in worker.descendants()]
        _wait_for_first(crew)
        idle_share = _cpu_share(pids, workers * len(GROUPS), quiet_s)
        KINDS[kind](proxy, folder, True)
        share = _cpu_share(pids, workers * len(GROUPS), seconds)
        KINDS[kind](proxy, folder, False)
        ended_at = time.time()
        resumed = _until_all_ran(crew, ended_at, patience_s)
        published, runs = crew.published(), crew.runs()
        spoiled = [entry for entry in published if entry["error"]]
        return Outage(
            kind, seconds, resumed, share, idle_share, max((entry["seconds"] for entry in published), default=0.0),
            len(spoiled), judge(expected_of(published), runs, published, crew.kills, proxy.of, logs=crew.logs()),
        )  # fmt: skip


def _cpu_share(pids: Sequence[int], workers: int, seconds: float) -> float:
    """Wait for so long; what share of one core each worker used meanwhile, its pool included."""
    before = cpu_s(pids)
    time.sleep(seconds)
    return (cpu_s(pids) - before) / seconds / workers


def _wait_for_first(crew: Fleet) -> None:
    seen: set[str] = set()
    tail = Tail(crew.folder / "runs")
    deadline = time.monotonic() + 60.0
    while len(seen) < len(GROUPS):
        assert time.monotonic() < deadline, f"nothing runs\n{crew.logs()[-3000:]}"
        seen |= {run["group"] for run in tail.new()}
        time.sleep(0.1)


def _until_all_ran(crew: Fleet, ended_at: float, patience_s: float) -> dict[str, float]:
    """Wait until all that was accepted ran; when each group ran its first task after the end, in seconds."""
    resumed: dict[str, float] = {}
    done: set[tuple[str, int]] = set()
    tail = Tail(crew.folder / "runs")
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for entry in tail.new():
            done.add((entry["group"], entry["number"]))
            if entry["at"] > ended_at:
                resumed.setdefault(entry["group"], entry["at"] - ended_at)
        if not crew.is_publishing():
            wanted = {(group, number) for group, numbers in expected_of(crew.published()).items() for number in numbers}
            if wanted <= done:
                break
        time.sleep(0.1)
    return {group: resumed.get(group, float("inf")) for group in GROUPS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the outages that were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kind", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=2.0, help="messages per second of each publisher")
    parser.add_argument("--keep", type=Path, help="folder for logs and ledgers")
    options = parser.parse_args(arguments)
    is_good = True
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for kind in options.kind.split(","):
            own = folder / kind
            own.mkdir(parents=True)
            found = run(kind, options.seconds, stack.enter_context(run_moto()), own, rate=options.rate)
            print(found.text(), flush=True)
            for example in found.verdict.examples[:5]:
                print("   ", example)
            is_good &= found.is_good
    return 0 if is_good else 1


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
