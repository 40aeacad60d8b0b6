"""What was published, what ran, who was killed; and from that: what is lost, and why something ran twice. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.journal import DONE, REFUSED, Receipt

Run = Mapping[str, Any]
#: A reason that is none: the campaign has failed.
UNEXPLAINED = "unexplained"
#: An ack is sent within a tenth of a second, and tried again for a few more while faults are injected.
_ACK_TIME_S = 15.0
_LOST_LEASE = re.compile(r"Lost the lease of task \w+\[([^]]+)\]")


@dataclass(frozen=True)
class Kill:
    """SIGKILL to these processes of a worker, at a time; ``whole`` if the main process was among them."""

    worker: str
    pids: frozenset[int]
    at: float
    whole: bool


@dataclass
class Verdict:
    """What a campaign comes to.

    Attributes:
        lost: Numbers that a group has not run, by group.
        duplicates: How many runs were too many, by reason.
        examples: Of those that are not explained.
    """

    lost: dict[str, list[int]]
    duplicates: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Nothing lost, and a reason for each duplicate."""
        return not any(self.lost.values()) and not self.duplicates[UNEXPLAINED]


def read(path: Path) -> list[dict[str, Any]]:
    """Lines that were written whole; ``[]`` for a file that is not there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def expected_of(published: Iterable[Run]) -> dict[str, set[int]]:
    """What each group is to run: what was accepted for it."""
    expected: dict[str, set[int]] = defaultdict(set)
    for entry in published:
        for group in entry["groups"]:
            if not entry["error"]:
                expected[group].add(entry["number"])
    return dict(expected)


def judge(
    expected: Mapping[str, Iterable[int]], runs: Sequence[Run], published: Sequence[Run],
    kills: Sequence[Kill], deliveries: Callable[[str], list[Receipt]], *, logs: str = "", loses_answers: bool = True,
    unheard: Container[str] = (),
) -> Verdict:  # fmt: skip
    """What is lost, and why what ran twice did.

    Args:
        expected: The numbers that are to run, by group.
        deliveries: The deliveries of a message, by SQS's id of it.
        logs: Of the workers: lost leases are told there.
        loses_answers: Whether publishing may succeed without the publisher's knowing it.
        unheard: Ids of tasks with which that has happened anyway.
    """
    by_event: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        by_event[run["group"], run["number"]].append(run)
    verdict = Verdict({group: [n for n in wanted if (group, n) not in by_event] for group, wanted in expected.items()})
    refused = {entry["number"] for entry in published if entry["error"]}
    told = set(_LOST_LEASE.findall(logs))
    for (group, number), found in by_event.items():
        found.sort(key=lambda run: float(run["at"]))
        for earlier, later in itertools.pairwise(found):
            if earlier["id"] == later["id"] and earlier["message"] != later["message"]:
                if earlier["retries"]:
                    reason = "an earlier try of it ran twice"
                elif loses_answers or later["id"] in unheard:
                    reason = "publish tried again, its answer was lost"
                else:
                    reason = UNEXPLAINED
            else:
                reason = _reason(earlier, later, number in refused, kills, deliveries)
            if reason == UNEXPLAINED and later["id"] in told:
                reason = "its lease was lost, as the log says"
            verdict.duplicates[reason] += 1
            if reason == UNEXPLAINED:
                history = [vars(receipt) for receipt in deliveries(str(later["message"]))]
                verdict.examples.append(f"{group} {number}: {dict(earlier)} {dict(later)} {history}")
    return verdict


def _reason(
    earlier: Run, later: Run, was_refused: bool, kills: Sequence[Kill], deliveries: Callable[[str], list[Receipt]]
) -> str:
    """Why *later* ran, though *earlier* had run."""
    if earlier["id"] != later["id"]:
        return "published again after an error" if was_refused else UNEXPLAINED
    known = deliveries(str(later["message"]))
    if any(receipt.is_copy for receipt in known):
        return "delivered twice"
    mine = [receipt for receipt in known if receipt.receives == earlier["receives"]]
    again = [receipt for receipt in known if receipt.receives == later["receives"]]
    if not mine or not again:
        return UNEXPLAINED
    before = [(kind, outcome, at) for kind, outcome, at in mine[0].settles if at <= again[0].at]
    acks = [outcome for kind, outcome, _ in before if kind == "ack"]
    killed = _was_killed(earlier, again[0].at, kills)
    # An ack without an answer may be one whose sender was killed.
    if acks and DONE not in acks and (killed is None or REFUSED in acks):
        return "its ack was lost"
    if killed is not None:
        return "its worker was killed" if killed.whole else "its pool process was killed"
    if any(kind == "ack" for kind, _, _ in mine[0].settles) and not acks:
        return "its lease ran out before its ack"
    return UNEXPLAINED


def _was_killed(run: Run, until: float, kills: Sequence[Kill]) -> Kill | None:
    """The kill that kept a run from being acknowledged."""
    for kill in kills:
        hit = kill.worker == run["worker"] if kill.whole else run["pid"] in kill.pids
        if hit and run["at"] - 0.1 <= kill.at <= min(until, run["at"] + _ACK_TIME_S):
            return kill
    return None
