"""A publisher: ``python -m campaign.publish 0 1000 --how single``.

Publishes events with Celery's own ``.delay`` and its retry policy. One that raises is not accepted: it is published
again, as a careful script would. Each attempt is written down.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kombu.exceptions import OperationalError

import kombu_hake
from campaign.app import FOLDER, append, send
from kombu_hake.exceptions import PublishFailed

_CHUNK = 20


def publish(number: int) -> None:
    """Until it is accepted."""
    while True:
        try:
            found = send(number)
        except OperationalError as exc:
            append("published", number=number, id=None, error=repr(exc))
        else:
            append("published", number=number, id=found.id, error=None)
            return


def publish_together(numbers: range) -> None:
    """In one batch; what is not accepted, on its own."""
    ids: dict[int, str] = {}
    refused: set[int] = set()
    try:
        with kombu_hake.batch():
            for number in numbers:
                try:
                    ids[number] = send(number).id
                except OperationalError as exc:
                    append("published", number=number, id=None, error=repr(exc))
                    refused.add(number)
    except PublishFailed as exc:
        failed = {published.message["headers"]["id"] for published, _ in exc.failed}
        refused |= {number for number, task_id in ids.items() if task_id in failed}
    for number, task_id in ids.items():
        append("published", number=number, id=task_id, error="refused in a batch" if number in refused else None)
    for number in refused:
        publish(number)


def done(how: str) -> int:
    """How many of this publisher's events every group has run, as the campaign says."""
    try:
        return int((Path(os.environ[FOLDER]) / f"done-{how}").read_text() or 0)
    except FileNotFoundError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--how", choices=("single", "threads", "batch"), default="single")
    parser.add_argument("--rate", type=float, default=0.0, help="at most so many events per second")
    parser.add_argument("--window", type=int, default=0, help="wait while so many, in each group, have not run yet")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.count)
    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    with ThreadPoolExecutor(8) as threads:
        for chunk in chunks:
            while options.window and chunk.start - numbers.start - done(options.how) > options.window:
                time.sleep(0.1)
            due = time.monotonic() + (len(chunk) / options.rate if options.rate else 0.0)
            if options.how == "batch":
                publish_together(chunk)
            elif options.how == "threads":
                list(threads.map(publish, chunk))
            else:
                for number in chunk:
                    publish(number)
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
