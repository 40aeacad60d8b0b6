"""The campaign: N events to three groups under one kind of fault after the other, and SIGKILL every few seconds.

    make campaign ARGS="--events 5000"
    make campaign ARGS="--events 500 --kinds black-hole,duplicate --keep /tmp/campaign"

For each kind: how many events each group lost, what ran twice and why. The exit code is 1 when anything is lost, or a
duplicate has no reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from support.emulators import Emulator, run_moto
from support.proxy import KEYS_PATH

from campaign.app import GROUPS
from campaign.faults import KINDS, MIXED, Kind
from campaign.fleet import Fleet, Tail, end_tidily, fleet
from campaign.journal import JournalProxy
from campaign.ledger import Verdict, judge

VISIBILITY_S = 10
#: Short, so that a request into a black hole costs seconds and not minutes.
OPTIONS = {"visibility_timeout": VISIBILITY_S, "wait_time_seconds": 3, "read_timeout": 4, "connect_timeout": 2}
HOW = ("single", "threads", "batch")


@dataclass
class Row:
    """What one kind of fault came to."""

    kind: str
    events: int
    verdict: Verdict
    refused: int
    spoiled: int
    kills: int
    seconds: float
    #: Objects in S3 that were deleted; those of messages that were not acknowledged before; and those that are left.
    deleted: int = 0
    deleted_early: tuple[str, ...] = ()
    left: int = 0

    @property
    def is_good(self) -> bool:
        """Nothing lost, a reason for each duplicate, and no object deleted before its message was settled."""
        return self.verdict.is_good and not self.deleted_early

    def text(self) -> str:
        """As a line of the table."""
        lost = " ".join(f"{group} {len(numbers)}" for group, numbers in self.verdict.lost.items())
        duplicates = ", ".join(f"{count} {reason}" for reason, count in self.verdict.duplicates.most_common() if count)
        objects = ""
        if self.deleted or self.left:
            objects = f" objects: {self.deleted} deleted, {len(self.deleted_early)} too early, {self.left} left"
        why = f"({duplicates})" if duplicates else ""
        return (
            f"{self.kind:15}{self.events:7}  {lost:37} {self.spoiled:7} {self.refused:8} {self.kills:5} "
            f"{self.seconds:7.0f}  {self.verdict.duplicates.total():4} {why}{objects}"
        )


HEADER = (
    f"{'fault':15}{'events':>7}  {'lost per group':37} {'faults':>7} {'not acc.':>8} {'kills':>5} {'seconds':>7}  "
    f"{'duplicates':>4}"
)


def run_kind(
    name: str, emulator: Emulator, folder: Path, *, events: int, workers: int = 2, kill_every_s: float = 4.0,
    rate: float = 60.0, patience_s: float = 120.0, visibility_s: int = VISIBILITY_S,
) -> Row:  # fmt: skip
    """One kind of fault.

    Args:
        rate: Most events per second, all publishers together.
        patience_s: How long the last event may take, from when all are published.
    """
    kind = MIXED if name == "mixed" else KINDS[name]
    started = time.monotonic()
    with ExitStack() as stack:
        proxy = stack.enter_context(JournalProxy(emulator.endpoint_url, rules=kind.rules))
        seen = replace(emulator, port=int(proxy.endpoint_url.rpartition(":")[2]))
        options: dict[str, object] = {**OPTIONS, "visibility_timeout": visibility_s}
        broker, environment = seen.url(f"c{uuid4().hex[:8]}"), {}
        if kind.renews_keys:
            broker = broker.replace(f"{seen.key}:{seen.secret}@", "", 1)
            environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{proxy.endpoint_url}{KEYS_PATH}"}
        bucket = f"campaign-{uuid4().hex[:8]}"
        if kind.large:
            emulator.client("s3").create_bucket(Bucket=bucket)
            options["large_messages"] = f"s3://{bucket}/campaign"
            environment["CAMPAIGN_LARGE"] = str(kind.large)
        crew = stack.enter_context(fleet(broker, options, folder, environment))
        crew.start(workers, "-P", "prefork", "-c", "2")
        time.sleep(kind.lasting)
        share = _share(events)
        for number, how in enumerate(HOW):
            first = number * share
            crew.publish(first, min(share, events - first), how, rate / len(HOW))
        _until_all_ran(crew, events, kill_every_s, patience_s, InTurn(kind, proxy))
        proxy.rules = kind.rules
        until_calm(crew, visibility_s)
        verdict = judge(
            dict.fromkeys(GROUPS, range(events)), crew.runs(), crew.published(), crew.kills, proxy.of,
            logs=crew.logs(), loses_answers=kind.loses_answers, unheard=proxy.unheard,
        )  # fmt: skip
        refused = sum(bool(entry["error"]) for entry in crew.published())
        left = objects_left(emulator, bucket) if kind.large else 0
        return Row(
            name, events, verdict, refused, proxy.spoiled, len(crew.kills), time.monotonic() - started,
            proxy.deleted, tuple(proxy.deleted_early), left,
        )  # fmt: skip


def objects_left(emulator: Emulator, bucket: str) -> int:
    """Objects of messages to one queue that nobody deleted: of processes that were killed in between."""
    pages = emulator.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="campaign/q/")
    return sum(page["KeyCount"] for page in pages)


def _share(events: int) -> int:
    """Of one publisher."""
    return -(-events // len(HOW))


class InTurn:
    """Puts the rules of a kind into force, one phase after the other."""

    def __init__(self, kind: Kind, proxy: JournalProxy) -> None:
        self._kind = kind
        self._proxy = proxy
        self._begun = time.monotonic()
        self._last = kind.rules

    def tick(self) -> None:
        """Called often."""
        rules = self._kind.rules_at(time.monotonic() - self._begun)
        if rules != self._last:
            self._proxy.rules = self._last = rules


def _until_all_ran(crew: Fleet, events: int, kill_every_s: float, patience_s: float, in_turn: InTurn) -> None:
    """Kill one after the other until nearly all ran, then wait for the rest, for so long."""
    left = {group: set(range(events)) for group in GROUPS}
    share = _share(events)
    tail = Tail(crew.folder / "runs")
    next_kill = time.monotonic() + kill_every_s / 2
    deadline = float("inf")
    while any(left.values()) and time.monotonic() < deadline:
        for run in tail.new():
            left[run["group"]].discard(run["number"])
        for number, how in enumerate(HOW):
            crew.tell_done(how, share - len({n for each in left.values() for n in each if n // share == number}))
        if crew.is_publishing():
            deadline = time.monotonic() + patience_s
        if time.monotonic() >= next_kill and (crew.is_publishing() or sum(map(len, left.values())) > events * 0.03):
            crew.kill_next()
            next_kill += kill_every_s
        in_turn.tick()
        gone = crew.ended()
        assert not gone, "\n".join(gone)
        time.sleep(0.2)


def until_calm(crew: Fleet, seconds: float) -> None:
    """Until nothing has run for so long: what was delivered and not acknowledged has come again by then."""
    tail = Tail(crew.folder / "runs")
    deadline = time.monotonic() + 6 * seconds
    calm_since = time.monotonic()
    tail.new()
    while time.monotonic() - calm_since < 1.2 * seconds and time.monotonic() < deadline:
        if tail.new():
            calm_since = time.monotonic()
        time.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kinds that were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--workers", type=int, default=2, help="per group")
    parser.add_argument("--kill-every", type=float, default=4.0, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=60.0, help="most events per second")
    parser.add_argument("--keep", type=Path, help="folder for logs and ledgers")
    options = parser.parse_args(arguments)
    totals: Counter[str] = Counter()
    is_good = True
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(HEADER, flush=True)
        for name in options.kinds.split(","):
            own = folder / name
            own.mkdir(parents=True)
            emulator = stack.enter_context(run_moto())
            row = run_kind(
                name, emulator, own, events=options.events, workers=options.workers, kill_every_s=options.kill_every,
                rate=options.rate,
            )  # fmt: skip
            print(row.text(), flush=True)
            for example in row.verdict.examples[:5]:
                print("   ", example, flush=True)
            totals.update(row.verdict.duplicates)
            is_good &= row.is_good
    print("all duplicates:", ", ".join(f"{count} {reason}" for reason, count in totals.most_common()) or "none")
    return 0 if is_good else 1


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
