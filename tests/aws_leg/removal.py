"""Removes what a run made: queues and topics whose names start with the run's random prefix, and nothing else."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["Removed", "belongs", "is_run", "left", "new_run", "remove"]

#: Fifty bits: no name of another program starts like this by chance.
_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_CHARS = 10
_RUN = re.compile(rf"hakeleg-[{_ALPHABET}]{{{_CHARS}}}\Z")
_PAUSE_S = 5.0


@dataclass(frozen=True)
class Removed:
    """How many were removed."""

    queues: int
    topics: int


def new_run() -> str:
    """A prefix that no run has had: ``hakeleg-`` and ten random characters."""
    return "hakeleg-" + "".join(secrets.choice(_ALPHABET) for _ in range(_CHARS))


def is_run(text: str) -> bool:
    """Whether this is the prefix of some run, in full."""
    return _RUN.match(text) is not None


def belongs(run: str, name: str) -> bool:
    """Whether a queue or topic was made by this run, by its name in AWS.

    Raises:
        ValueError: *run* is no prefix of a run, and could be that of other things.
    """
    _check(run)
    return name.startswith(f"{run}-")


def left(sqs: Any, sns: Any, run: str) -> tuple[list[str], list[str]]:
    """URLs of the queues and ARNs of the topics of a run that AWS lists. Raises as :func:`belongs`."""
    _check(run)
    return list(_queues(sqs, run)), list(_topics(sns, run))


def remove(
    sqs: Any,
    sns: Any,
    run: str,
    *,
    quiet_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Removed:
    """Delete all queues and topics of a run; a topic's subscriptions go with it.

    Args:
        quiet_s: AWS lists new things late, so return only after nothing new was listed for so long.
    Raises:
        ClientError, BotoCoreError: AWS refuses or does not answer. Calling again continues.
    """
    done: set[str] = set()
    queues = topics = 0
    quiet_from = clock()
    while True:
        found = left(sqs, sns, run)
        new_queues, new_topics = ([address for address in addresses if address not in done] for addresses in found)
        for arn in new_topics:
            sns.delete_topic(TopicArn=arn)
        for url in new_queues:
            _delete_queue(sqs, url)
        queues, topics = queues + len(new_queues), topics + len(new_topics)
        now = clock()
        if new_queues or new_topics:
            done.update(new_queues, new_topics)
            quiet_from = now
        if now - quiet_from >= quiet_s:
            return Removed(queues, topics)
        sleep(min(_PAUSE_S, quiet_s))


def _check(run: str) -> None:
    if not is_run(run):
        raise ValueError(f"{run!r} is not the prefix of a run.")


def _queues(sqs: Any, run: str) -> Iterator[str]:
    for page in sqs.get_paginator("list_queues").paginate(
        QueueNamePrefix=f"{run}-", PaginationConfig={"PageSize": 1000}
    ):
        for url in page.get("QueueUrls", ()):
            if belongs(run, url.rpartition("/")[2]):
                yield url


def _topics(sns: Any, run: str) -> Iterator[str]:
    for page in sns.get_paginator("list_topics").paginate():
        for topic in page.get("Topics", ()):
            if belongs(run, topic["TopicArn"].rpartition(":")[2]):
                yield topic["TopicArn"]


def _delete_queue(sqs: Any, url: str) -> None:
    with suppress(sqs.exceptions.QueueDoesNotExist):  # listed although a test has deleted it
        sqs.delete_queue(QueueUrl=url)
