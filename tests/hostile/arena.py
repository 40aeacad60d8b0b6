"""A real worker in front of an emulator, hostile messages, and what became of each of them.

The worker reaches the emulator through a proxy that counts its requests and notes each delivery. The test sends past
the proxy, so what is counted is the worker's.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from uuid import uuid4

from botocore.exceptions import ClientError
from campaign.fleet import Tail
from support import aws_wire as wire
from support.celery_workers import Stage, Worker, stage
from support.emulators import ROOT, Emulator
from support.proxy import Proxy
from support.proxy_http import Message

from hostile.app import BROKER, DEAD_LETTERS, RUNS
from hostile.corpus import GROUP, MARKER, TASKS, TOPICS, VICTIM, Hostile, good
from kombu_hake.amqp.naming import Namer

__all__ = ["POOLS", "QUEUES", "Arena", "Pool", "arena", "stop"]

QUEUES = (TASKS, GROUP)
TICK_S = 0.02
READY_S = 120.0
#: Longer than anything is waited for, so that a message that comes again does so for a reason of its own.
VISIBILITY_S = 600
#: An emulator may hand a message to the open poll of a worker that has ended. The next one takes longer to start.
POLL_S = 2
_BATCH = 10
#: Long, as names of containers are: what is matched against it must not take exponential time.
_NODE = "hostile-worker-5d8f7c9b6d-x2x4z"


@dataclass(frozen=True)
class Pool:
    """A pool of Celery's and how large it is."""

    name: str
    arguments: tuple[str, ...]


POOLS = {
    "prefork": Pool("prefork", ("-P", "prefork", "-c", "2")),
    "threads": Pool("threads", ("-P", "threads", "-c", "2")),
    "solo": Pool("solo", ("-P", "solo")),
}


class DeliveryProxy(Proxy):
    """As :class:`support.proxy.Proxy`; notes what was delivered.

    Attributes:
        deliveries: SQS's message id to how often it was delivered.
        bodies: Body of a delivered message to the ids that it came under: SNS does not tell them.
        handles: Id of a delivered message to the name of its queue and its latest receipt handle.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.deliveries: Counter[str] = Counter()
        self.bodies: dict[str, list[str]] = {}
        self.handles: dict[str, tuple[str, str]] = {}

    def forget(self) -> None:
        """Drop what was noted; the counts of requests stay."""
        self.deliveries.clear()
        self.bodies.clear()

    def requests(self) -> dict[str, int]:
        """The requests by action since :meth:`reset_stats`."""
        return dict(self.stats()["requests"])

    def _count_response(self, request: wire.Request, answer: Message) -> None:
        super()._count_response(request, answer)
        if request.action != "ReceiveMessage" or answer.status != 200:
            return
        for message in wire.messages_of(answer):
            self.deliveries[message["MessageId"]] += 1
            self.handles[message["MessageId"]] = (request.target, message["ReceiptHandle"])
            ids = self.bodies.setdefault(message["Body"], [])
            if message["MessageId"] not in ids:
                ids.append(message["MessageId"])


class LogTail:
    """What a worker has logged since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def new(self) -> str:
        with self.path.open("rb") as log:
            log.seek(self._at)
            data = log.read()
        self._at += len(data)
        return data.decode("utf-8", "replace")


class Arena:
    """One worker of one pool, and its queues.

    Attributes:
        runs: Good task's number to the times at which it ran.
        odd_runs: Of each other task that ran, in order, the ids in its message.
        restarts: How often the worker was started again.
    """

    def __init__(
        self, aws: Emulator, proxy: DeliveryProxy, on_stage: Stage, folder: Path, pool: Pool, dead_letters: bool
    ) -> None:
        self.aws = aws
        self.proxy = proxy
        self.folder = folder
        self.pool = pool
        self.has_dead_letters = dead_letters
        self.runs: dict[int, list[float]] = {}
        self.odd_runs: list[str] = []
        self.restarts = -1
        self._stage = on_stage
        self._sqs, self._sns = aws.client("sqs"), aws.client("sns")
        self._namer = Namer(aws.namespace)
        self._tail = Tail(folder / "runs")
        self._started = 0
        self._sqs.create_queue(QueueName=self._namer.queue(VICTIM))
        self.start()
        for exchange in TOPICS:  # a worker creates those that it needs itself
            self._topic(exchange)
        self._topics_before = self._topics()

    # --- the worker

    def start(self) -> None:
        """Start the worker, and wait until it consumes."""
        self.restarts += 1
        self._started += 1
        environment = {
            **os.environ,
            BROKER: self._stage.broker,
            RUNS: str(self.folder / "runs"),
            MARKER: str(self.marker),
            DEAD_LETTERS: "yes" if self.has_dead_letters else "no",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
            "C_FORCE_ROOT": "1",
            "NO_COLOR": "1",
        }
        name = f"{_NODE}-{self._started}"
        self.worker: Worker = self._stage.start(
            "hostile.app", "-Q", ",".join(QUEUES), *self.pool.arguments, name=name, ready=False,
            environment=environment,
        )  # fmt: skip
        self.log = LogTail(self.folder / f"{name}-{self._started - 1}.log")
        assert self.until(self.worker.is_ready, READY_S), self.worker.log[-4000:]
        self.log.new()
        self._children = self._pool_processes()

    def restart(self) -> None:
        """End the worker without ceremony, empty the queues, and start another one."""
        with suppress(ProcessLookupError):  # it has ended, and so have the processes of its pool
            self.worker.kill()
        self.purge()
        self.start()

    @property
    def is_alive(self) -> bool:
        return self.worker.process.poll() is None

    def lost_pool_processes(self) -> int:
        """How many processes of the pool have ended since the last call."""
        if self.pool.name != "prefork" or not self.is_alive:
            return 0
        before, self._children = self._children, self._pool_processes()
        return len(before - self._children)

    def _pool_processes(self) -> set[int]:
        if self.pool.name != "prefork":
            return set()
        return {pid for pid in self.worker.descendants() if pid != self.worker.process.pid}

    def memory_mib(self) -> float:
        """Resident memory of the main process."""
        return self._status_mib("VmRSS")

    def peak_memory_mib(self) -> float:
        """The most it had since the last call."""
        peak = self._status_mib("VmHWM")
        if self.is_alive:
            Path(f"/proc/{self.worker.process.pid}/clear_refs").write_text("5")
        return peak

    def _status_mib(self, name: str) -> float:
        try:
            text = Path(f"/proc/{self.worker.process.pid}/status").read_text()
        except OSError:
            return 0.0
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields[name].split()[0]) / 1024 if name in fields else 0.0

    # --- sending

    def send(self, message: Hostile) -> str | None:
        """Send one message past the proxy; SQS's id of it, None for one through SNS."""
        attributes = {name: {"DataType": "String", "StringValue": text} for name, text in message.attributes.items()}
        if message.is_to_topic:
            self._sns.publish(TopicArn=self._topic(message.to), Message=message.text, MessageAttributes=attributes)
            return None
        sent = self._sqs.send_message(
            QueueUrl=self.url(message.to), MessageBody=message.text, MessageAttributes=attributes
        )
        return str(sent["MessageId"])

    def send_good(self, number: int, queue: str) -> None:
        self._sqs.send_message(QueueUrl=self.url(queue), MessageBody=good(number, queue))

    def until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait for a condition; whether it came to hold in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(TICK_S)
        return True

    def read_runs(self) -> None:
        """Bring :attr:`runs` and :attr:`odd_runs` up to date."""
        for run in self._tail.new():
            if run["task"] == "hostile.good":
                self.runs.setdefault(run["number"], []).append(run["at"])
            else:
                self.odd_runs.append(run["ids"])

    def has_run(self, number: int) -> bool:
        self.read_runs()
        return number in self.runs

    # --- what became of messages

    def take_dead_letters(self) -> list[str]:
        """Bodies of the messages in the dead-letter queues, which are emptied."""
        found: list[str] = []
        for queue in QUEUES if self.has_dead_letters else ():
            found += self._take(self.url(f"{queue}-dead"))
        return found

    def take_redirected(self) -> list[str]:
        """Bodies of messages that reached the victim's queue."""
        return self._take(self.url(VICTIM))

    def new_topics(self) -> set[str]:
        """Names of SNS topics that were created since the start."""
        return self._topics() - self._topics_before

    def unsettled(self, queue: str) -> tuple[int, int]:
        """Messages of a queue that are (visible, in flight, hidden or delayed)."""
        states = ("", "NotVisible", "Delayed")
        names = [f"ApproximateNumberOfMessages{state}" for state in states]
        found = self._sqs.get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)["Attributes"]
        visible, *others = (int(found[name]) for name in names)
        return visible, sum(others)

    def executed(self) -> list[str]:
        """Names of messages whose code was run; forgotten then."""
        if not self.marker.exists():
            return []
        names = self.marker.read_text().split()
        self.marker.unlink()
        return names

    def purge(self) -> None:
        """Empty the queues, what is in flight included."""
        # PurgeQueue may be called once a minute.
        handles = list(self.proxy.handles.values())
        self.proxy.handles.clear()
        for queue in QUEUES:
            name = self._namer.queue(queue)
            mine = [handle for target, handle in handles if target == name]
            for start in range(0, len(mine), _BATCH):
                self._delete(self.url(queue), mine[start : start + _BATCH])
            self._take(self.url(queue))

    # --- inside

    @property
    def marker(self) -> Path:
        return self.folder / "executed"

    def _take(self, url: str) -> list[str]:
        found: list[str] = []
        # A queue may have a wait time of its own.
        asked = {"QueueUrl": url, "MaxNumberOfMessages": _BATCH, "WaitTimeSeconds": 0}
        while messages := self._sqs.receive_message(**asked).get("Messages"):
            found += [message["Body"] for message in messages]
            self._delete(url, [message["ReceiptHandle"] for message in messages])
        return found

    def _delete(self, url: str, handles: Sequence[str]) -> None:
        """Delete messages; those that are gone are none to worry about."""
        entries = [{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)]
        with suppress(ClientError):
            self._sqs.delete_message_batch(QueueUrl=url, Entries=entries)

    @cache  # noqa: B019 - an arena lives as long as its test
    def url(self, queue: str) -> str:
        """URL of the SQS queue of a logical name."""
        return str(self._sqs.get_queue_url(QueueName=self._namer.queue(queue))["QueueUrl"])

    @cache  # noqa: B019
    def _topic(self, exchange: str) -> str:
        # The worker has created it: this finds it.
        return str(self._sns.create_topic(Name=self._namer.topic(exchange))["TopicArn"])

    def _topics(self) -> set[str]:
        pages = self._sns.get_paginator("list_topics").paginate()
        names = {topic["TopicArn"].rpartition(":")[2] for page in pages for topic in page["Topics"]}
        return {name for name in names if self._namer.owns(name)}


@contextmanager
def arena(aws: Emulator, folder: Path, pool: str, *, dead_letters: bool) -> Iterator[Arena]:
    """A started worker in a namespace of its own; no process is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.log"), folder / "runs", folder / "executed"):  # of a run before, with --keep
        old.unlink(missing_ok=True)
    aws = aws.in_namespace(f"h{uuid4().hex[:8]}")
    with DeliveryProxy(aws.endpoint_url) as proxy:
        seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
        broker = seen.url(visibility_timeout=VISIBILITY_S, wait_time_seconds=POLL_S)
        with stage(broker, folder) as on_stage:
            yield Arena(aws, proxy, on_stage, folder, POOLS[pool], dead_letters)


def stop(running: Arena) -> int | None:
    """Warm shutdown; the exit code, None where it had to be killed."""
    running.worker.signal(signal.SIGTERM)
    if not running.until(lambda: not running.is_alive, 30.0):
        running.worker.kill()
        return None
    return running.worker.process.returncode
