"""The scenarios: each takes one peer at one latency through one job and returns its figures.

All have the same shape, ``(run, peer, latency_s) -> figures``, and start fresh processes for whatever they measure.
``PLAN`` says which peers, latencies and sizes each is run with.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import aws
from .child import LATENCY_WARM_UP_COUNT, WARM_UP_COUNT
from .peers import Broker, broker
from .services import Services
from .stamps import STAMP
from .standin import StandIn
from .worker import Worker

CHILD_TIMEOUT_S = 300.0
IDLE_QUEUES = 4
IDLE_SETTLE_S = 6.0
MANY_QUEUES = 50
MANY_QUEUES_TIMEOUT_S = 15.0

Figures = dict[str, Any]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """What scenarios share.

    Attributes:
        is_quick: Smaller loads.
        latency_s: The added latency that stands for AWS.
        packages: Folder with another ``kombu_hake``, by the name of the baseline.
    """

    services: Services
    is_quick: bool
    latency_s: float
    packages: dict[str, Path] = field(default_factory=dict)

    def broker(self, peer: str, latency_s: float, *, is_tls: bool = False) -> Broker:
        """The peer, the stand-in set to this latency."""
        self.services.revive()
        self.services.standin.set_latency(latency_s)
        return broker(self.services, peer, latency_s, is_tls=is_tls, packages=self.packages)

    def side(self, peer: str) -> Broker:
        """The peer for what is not measured: at once, and not counted."""
        self.services.revive()
        return broker(self.services, peer, 0.0, is_measured=False, packages=self.packages)

    def size(self, full: int) -> int:
        """A load, smaller when quick; a multiple of ten."""
        return max(full // 30 * 10, 10) if self.is_quick else full


def queue_name() -> str:
    """A queue that no other measurement has used."""
    return f"bench-{os.getpid()}-{next(_numbers)}"


def child(scenario: str, count: int, peer: Broker, queue: str, **variables: object) -> Figures:
    """Run a part of ``child.py`` in a fresh process.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    environment = os.environ | peer.environment(queue=queue, done=os.devnull, **variables)
    command = [peer.python, "-m", "bench.child", scenario, str(count)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
            cwd=Path(os.devnull).parent,  # -m puts this folder first: from a checkout, its package would be measured
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{scenario} of {peer.peer} did not end in {CHILD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise RuntimeError(f"{scenario} of {peer.peer} failed:\n{done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_child(
    scenario: str, sizes: Sizes, run: Run, peer: str, latency_s: float, *, is_tls: bool = False, **more: object
) -> Figures:
    """A scenario that is one child process, with (near, far) sizes by peer."""
    count = run.size(_size(sizes, peer, latency_s))
    return child(scenario, count, run.broker(peer, latency_s, is_tls=is_tls), queue_name(), **more)


def wire(run: Run, peer: str, latency_s: float) -> Figures:
    """Fill a queue with the same tasks for all, then receive and delete them ten at a time."""
    queue, count = queue_name(), run.size(_size(PAIRS, peer, latency_s))
    child("fill", (count + WARM_UP_COUNT) * 10, run.side("hake"), queue)
    return child("wire", count, run.broker(peer, latency_s), queue)


def consume(run: Run, peer: str, latency_s: float, *, is_tls: bool = False) -> Figures:
    """Fill a queue, then consume and ack."""
    queue, count = queue_name(), run.size(_size(CONSUMED, peer, latency_s))
    child("fill", count, run.side(peer), queue)
    return child("consume", count, run.broker(peer, latency_s, is_tls=is_tls), queue)


def worker(pool: str, multiplier: int, run: Run, peer: str, latency_s: float, *, is_tls: bool = False) -> Figures:
    """Fill a queue with no-op tasks, then start a worker on it."""
    sizes = SOLO_TASKS if pool == "solo" else TASKS if multiplier > 4 else TASKS_FEW_AT_ONCE
    queue, count = queue_name(), run.size(_size(sizes, peer, latency_s))
    variables = {}
    if peer == "memory":
        variables["fill"] = count
    else:
        child("fill", count, run.side(peer), queue)
    peer_broker = run.broker(peer, latency_s, is_tls=is_tls)
    with Worker(run.services, peer_broker, [queue], pool=pool, multiplier=multiplier, **variables) as running:
        figures = running.measure(count)
    figures["stop_s"] = running.stop_s
    if peer_broker.is_aws:
        figures["left"] = aws.left_in(peer_broker.side_url, queue)
    return figures


def end_to_end(pool: str, run: Run, peer: str, latency_s: float) -> Figures:
    """From before ``.delay()`` until the task's first line, on an idle worker."""
    queue, count = queue_name(), 40 if run.is_quick else 150
    peer_broker = run.broker(peer, latency_s)
    if peer == "boto3":
        return _percentiles(child("wake_up", count, peer_broker, queue)["samples"])
    with Worker(run.services, peer_broker, [queue], pool=pool) as running:
        running.wait_ready()
        child("latency", count, peer_broker, queue)
        running.wait_done((count + LATENCY_WARM_UP_COUNT) * STAMP.size)
    samples = [done - sent for sent, done in STAMP.iter_unpack(running.stamps)]
    return _percentiles(samples[LATENCY_WARM_UP_COUNT:])


def idle(run: Run, peer: str, latency_s: float) -> Figures:
    """Requests of a worker that has nothing to do, per hour and queue, and its processor time."""
    queues = [f"{queue_name()}-{number}" for number in range(IDLE_QUEUES)]
    standin = run.services.start_standin(latency_s) if peer not in SERVERS else None
    peer_broker = broker(run.services, peer, latency_s, standin=standin, packages=run.packages)
    with Worker(run.services, peer_broker, queues, pool="solo", standin=standin) as running:
        running.wait_ready()
        time.sleep(IDLE_SETTLE_S)
        before, started_at = running.usage(), time.monotonic()
        if standin:
            standin.reset()
        time.sleep(46.0 if run.is_quick else 66.0)
        seconds = time.monotonic() - started_at
        figures: Figures = {"cpu_percent": (running.usage().tree_s - before.tree_s) / seconds * 100}
        if standin:
            stats = standin.stats()
            others = sum(n for action, n in stats["requests"].items() if action != "ReceiveMessage")
            figures["polls_per_hour"] = statistics.fmean(_polls_per_hour(stats["polls"], queues, seconds))
            figures["other_per_hour"] = others / seconds * 3600 / len(queues)
            figures["per_hour"] = figures["polls_per_hour"] + figures["other_per_hour"]
    return figures


def start_up(run: Run, peer: str, latency_s: float) -> Figures:
    """Import, first publish of a fresh process, worker with fifty queues: new ones, then the same again."""
    peer_broker, queue = run.broker(peer, latency_s), queue_name()
    imports = [child("import_time", 0, peer_broker, queue) for _ in range(1 if run.is_quick else 3)]
    figures: Figures = {
        "import_ms": statistics.median(each["import_ms"] for each in imports),
        "has_boto3": imports[0]["has_boto3"],
    }
    for name in ("new", "again"):
        first = child("first_publish", 0, peer_broker, queue, started_at=time.time())
        figures[f"first_publish_{name}_ms"] = first["published_ms"]
    queues = [f"{queue_name()}-{number}" for number in range(MANY_QUEUES)]
    standin = run.services.standin if peer_broker.is_aws else None
    for name in ("new", "again"):
        if standin:
            standin.reset()
        with Worker(run.services, peer_broker, queues, pool="solo") as running:
            running.wait_ready()
            figures[f"worker_{name}_s"] = running.ready_s
            if standin:
                figures[f"worker_{name}_polling_s"] = _wait_for_polls(standin, queues, running)
                requests = standin.stats()["requests"]
                figures[f"worker_{name}_requests"] = sum(requests.values()) - requests.get("ReceiveMessage", 0)
    return figures


def long_run(run: Run, peer: str, latency_s: float) -> Figures:
    """Many tasks through one worker: nothing lost, memory bounded."""
    queue, count = queue_name(), 10_000 if run.is_quick else 100_000
    child("fill", count, run.side(peer), queue)
    peer_broker = run.broker(peer, latency_s)
    with Worker(run.services, peer_broker, [queue], pool="solo", multiplier=32) as running:
        figures = running.measure(count)
        figures["done"] = running.done_count
    figures["left"] = aws.left_in(peer_broker.side_url, queue)
    return figures


# ---- sizes: (no added latency, far), the same for all who are fast enough, about three seconds of work for the others

Sizes = dict[str, tuple[int, int]]
_DEFAULT = "default"
SENT: Sizes = {_DEFAULT: (3000, 240)}
SENT_BY_THREADS: Sizes = {_DEFAULT: (3200, 3200), "sqs": (1600, 1600)}
BATCHED: Sizes = {_DEFAULT: (6000, 6000), "sqs": (3000, 240), "redis": (6000, 240), "rabbitmq": (6000, 240)}
CONSUMED: Sizes = {_DEFAULT: (9000, 9000), "sqs": (2400, 240), "redis": (3000, 240)}
TASKS: Sizes = {_DEFAULT: (5000, 5000), "sqs": (450, 240), "redis": (5000, 240)}
TASKS |= {"taskiq": (1500, 1500), "dramatiq": (1500, 1500)}
SOLO_TASKS: Sizes = TASKS | {"memory": (20_000, 20_000)}
TASKS_FEW_AT_ONCE: Sizes = {_DEFAULT: (1800, 1800), "sqs": (300, 120), "redis": (1800, 150)}
FANNED: Sizes = {_DEFAULT: (1500, 1500), "sqs": (300, 60), "redis": (1500, 240), "rabbitmq": (1500, 240)}
PAIRS: Sizes = {_DEFAULT: (1000, 1000)}


def _size(sizes: Sizes, peer: str, latency_s: float) -> int:
    return sizes.get(peer, sizes[_DEFAULT])[latency_s > 0]


FAR = ("far",)
SERVERS = ("redis", "rabbitmq")
AWS = ("hake", "sqs")
CELERY = ("hake", "rabbitmq", "redis", "sqs")
IN_FEW_ROUNDS = frozenset({"memory", "redis", "taskiq", "dramatiq"})
"""Peers that are shown for orientation: nothing is promised about them that would need many rounds."""
FEW_ROUNDS = 3


@dataclass(frozen=True)
class Item:
    """One line of the plan.

    Attributes:
        action: The scenario.
        peers: Who takes part; baselines do wherever ``hake`` does.
        where: ``near`` (no added latency), ``far`` or both.
        quick_peers, quick_where: The same for the quick run; no peers: left out there.
        is_repeated: Run in every round; otherwise in the first only.
        is_background: Measures no speed: all peers at once, beside everything else.
        is_tls: Over TLS.
        has_baseline: Whether baselines take part.
    """

    action: Callable[[Run, str, float], Figures]
    peers: tuple[str, ...] = CELERY
    where: tuple[str, ...] = ("near", "far")
    quick_peers: tuple[str, ...] = CELERY
    quick_where: tuple[str, ...] = ("far",)
    is_repeated: bool = True
    is_background: bool = False
    is_tls: bool = False
    has_baseline: bool = True


def fan_out(group_count: int, run: Run, peer: str, latency_s: float) -> Figures:
    """Events to an exchange with so many groups; sizes shrink with the number of groups."""
    sizes = {name: (near * 3 // group_count, far * 3 // group_count) for name, (near, far) in FANNED.items()}
    return in_child("fan_out", sizes, run, peer, latency_s, groups=group_count)


def _sent(scenario: str, sizes: Sizes, **item: Any) -> Item:
    return Item(partial(in_child, scenario, sizes), **item)


def _once(action: Callable[[Run, str, float], Figures], **item: Any) -> Item:
    return Item(action, where=FAR, is_repeated=False, has_baseline=False, **item)


BOTH = ("near", "far")
WITH_OTHERS = ("memory", *CELERY, "taskiq", "dramatiq")
CLOSE = ("hake", "rabbitmq", "sqs")
NONE: tuple[str, ...] = ()
PLAN: dict[str, Item] = {
    "idle": _once(idle, is_background=True),
    "wire": Item(wire, peers=("hake", "boto3"), where=("near",), quick_peers=("hake", "boto3"), quick_where=("near",)),
    "publish": _sent("publish", SENT, peers=(*WITH_OTHERS, "boto3"), quick_peers=(*CLOSE, "boto3"), quick_where=BOTH),
    "publish_exchange": _sent("publish_exchange", SENT, peers=CLOSE, quick_peers=CLOSE, quick_where=BOTH),
    "batch": _sent("batch", BATCHED, where=FAR, quick_peers=AWS),
    "batch_exchange": _sent("batch_exchange", BATCHED, peers=CLOSE, where=FAR, quick_peers=AWS),
    "delay": _sent("delay", SENT, where=FAR, has_baseline=False),
    "delay_16": _sent("delay_threads", SENT_BY_THREADS, where=FAR, has_baseline=False),
    "delay_batch": _sent("delay_batch", BATCHED, where=FAR, quick_peers=AWS, has_baseline=False),
    "consume": Item(consume, quick_where=BOTH),
    "prefork_32": Item(partial(worker, "prefork", 32), peers=WITH_OTHERS, quick_where=BOTH),
    "solo_32": Item(
        partial(worker, "solo", 32), peers=("memory", *CELERY), where=FAR, quick_peers=("hake", "rabbitmq")
    ),
    "threads_32": Item(
        partial(worker, "threads", 32), peers=("memory", *CELERY), where=FAR, quick_peers=("hake", "rabbitmq")
    ),
    "prefork_4": _once(partial(worker, "prefork", 4), quick_peers=NONE),
    "fan_out_3": Item(partial(fan_out, 3), where=FAR),
    "fan_out_10": _once(partial(fan_out, 10), quick_peers=NONE),
    "publish_tls": Item(
        partial(in_child, "publish", SENT, is_tls=True), peers=CLOSE, where=FAR, quick_peers=AWS, is_tls=True
    ),
    "consume_tls": Item(partial(consume, is_tls=True), peers=CLOSE, where=FAR, quick_peers=AWS, is_tls=True),
    "prefork_32_tls": Item(
        partial(worker, "prefork", 32, is_tls=True),
        peers=("hake", "rabbitmq"),
        where=FAR,
        quick_peers=("hake",),
        is_tls=True,
    ),
    "latency_prefork": _once(partial(end_to_end, "prefork"), quick_peers=NONE),
    "latency_solo": _once(partial(end_to_end, "solo"), peers=("boto3", *CELERY), quick_peers=("boto3", *AWS)),
    "start_up": _once(start_up, quick_peers=AWS),
    "long_run": Item(
        long_run, peers=("hake",), where=("near",), quick_peers=NONE, is_repeated=False, has_baseline=False
    ),
}

# ---- small helpers


def _percentiles(samples: list[float]) -> Figures:
    ordered = sorted(samples)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return {"count": len(ordered), "p50_ms": statistics.median(ordered) * 1000, "p99_ms": p99 * 1000}


def _polls_per_hour(polls: dict[str, dict[str, float]], queues: list[str], seconds: float) -> list[float]:
    """By queue. A short window holds a whole number of polls, so take the time between the first and the last."""
    rates = []
    for queue in queues:
        poll = polls.get(queue, {"count": 0, "first_s": 0.0, "last_s": 0.0})
        span_s = poll["last_s"] - poll["first_s"]
        if poll["count"] > 1 and span_s > 0:
            rates.append((poll["count"] - 1) / span_s * 3600)
        else:
            rates.append(poll["count"] / seconds * 3600)
    return rates


def _wait_for_polls(standin: StandIn, queues: list[str], running: Worker) -> float | None:
    """Seconds from the worker's start until every queue has been asked once; None when that takes too long."""
    while time.monotonic() - running.started_at < MANY_QUEUES_TIMEOUT_S:
        if all(queue in standin.stats()["polls"] for queue in queues):
            return time.monotonic() - running.started_at
        time.sleep(0.02)
    return None
