"""A steady, mixed load: ``python -m campaign.load --seconds 60 --rate 5``.

Events through the topic, plain tasks, tasks with a countdown through both, tasks that retry, and batches. What is
published, and which groups are to run it, is written down; what raised is published again.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable

from celery.result import AsyncResult
from kombu.exceptions import OperationalError

import kombu_hake
from campaign.app import GROUPS, PLAIN, append, record, record_plain, retrying
from kombu_hake.exceptions import PublishFailed

_BATCH = 10
_COUNTDOWN_S = (3, 20)


def _countdown() -> int:
    return random.randint(*_COUNTDOWN_S)


#: Kind to (how it is published, whether to all groups).
HOW: dict[str, tuple[Callable[[int], AsyncResult], bool]] = {
    "event": (lambda number: record.delay(number, "event"), True),
    "plain": (lambda number: record_plain.apply_async([number, "plain"], queue=PLAIN), False),
    "eta": (lambda number: record_plain.apply_async([number, "eta"], queue=PLAIN, countdown=_countdown()), False),
    "eta event": (lambda number: record.apply_async([number, "eta event"], countdown=_countdown()), True),
    "retry": (retrying.delay, True),
}


def publish(number: int, kind: str) -> None:
    """Until it is accepted."""
    send, to_all = HOW[kind]
    while True:
        started = time.monotonic()
        found, error = None, None
        try:
            found = send(number)
        except OperationalError as exc:
            error = repr(exc)
        append(
            "published", number=number, kind=kind, groups=GROUPS if to_all else [PLAIN], error=error,
            id=found and found.id, seconds=time.monotonic() - started,
        )  # fmt: skip
        if not error:
            return


def publish_batch(numbers: range) -> None:
    """Events in one batch; what is not accepted, on its own."""
    ids: dict[int, str] = {}
    refused = set(numbers)
    try:
        with kombu_hake.batch():
            for number in numbers:
                ids[number] = HOW["event"][0](number).id
        refused = set()
    except PublishFailed as exc:
        failed = {published.message["headers"]["id"] for published, _ in exc.failed}
        refused = {number for number, task_id in ids.items() if task_id in failed}
    except OperationalError:
        pass  # no connection: what was gathered before may have been sent, all of it is published again
    for number in numbers:
        error = "in a batch" if number in refused else None
        append("published", number=number, kind="batch", groups=GROUPS, error=error, id=ids.get(number), seconds=0.0)
        if error:
            publish(number, "event")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="messages per second")
    parser.add_argument("--kinds", default=",".join([*HOW, "batch"]))
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    ends = due = time.monotonic()
    ends += options.seconds
    number = options.first
    for kind in itertools.cycle(options.kinds.split(",")):
        if time.monotonic() >= ends:
            return
        count = _BATCH if kind == "batch" else 1
        if kind == "batch":
            publish_batch(range(number, number + count))
        else:
            publish(number, kind)
        number += count
        due = max(due + count / options.rate, time.monotonic() - 5.0)  # what a fault held up is caught up with, in part
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
