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
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from support.proxy_control import RemoteProxy

from . import aws
from .child import LATENCY_WARM_UP_COUNT
from .peers import Broker, broker
from .services import Services
from .stamps import STAMP
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
    """

    services: Services
    is_quick: bool
    latency_s: float

    def broker(self, peer: str, latency_s: float, *, is_counted: bool = True) -> Broker:
        """The peer, the proxy set to this latency."""
        if is_counted and peer not in ("redis", "rabbitmq"):
            self.services.proxy.latency_s = latency_s
        return broker(self.services, peer, latency_s, is_counted=is_counted)

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
    command = [sys.executable, "-m", "bench.child", scenario, str(count)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{scenario} of {peer.peer} did not end in {CHILD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise RuntimeError(f"{scenario} of {peer.peer} failed:\n{done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_child(
    scenario: str, sizes: dict[str, tuple[int, int]], run: Run, peer: str, latency_s: float, **more: object
) -> Figures:
    """A scenario that is one child process, with (near, far) sizes by peer."""
    queue = queue_name()
    actual = "sqs" if peer == "boto3" else peer
    return child(scenario, run.size(_size(sizes, peer, latency_s)), run.broker(actual, latency_s), queue, **more)


def consume(run: Run, peer: str, latency_s: float) -> Figures:
    """Fill a queue, then consume and ack."""
    queue, count = queue_name(), run.size(_size(CONSUMED, peer, latency_s))
    child("fill", count, run.broker(peer, 0.0, is_counted=False), queue)
    return child("consume", count, run.broker(peer, latency_s), queue)


def worker(pool: str, multiplier: int, run: Run, peer: str, latency_s: float) -> Figures:
    """Fill a queue with no-op tasks, then start a worker on it."""
    sizes = TASKS if multiplier > 4 else TASKS_FEW_AT_ONCE
    queue, count = queue_name(), run.size(_size(sizes, peer, latency_s))
    child("fill", count, run.broker(peer, 0.0, is_counted=False), queue)
    peer_broker = run.broker(peer, latency_s)
    with Worker(run.services, peer_broker, [queue], pool=pool, multiplier=multiplier) as running:
        figures = running.measure(count)
    figures["stop_s"] = running.stop_s
    if peer_broker.is_aws:
        figures["left"] = aws.left_in(peer_broker.aws_url, queue)
    return figures


def end_to_end(pool: str, run: Run, peer: str, latency_s: float) -> Figures:
    """From before ``.delay()`` until the task's first line, on an idle worker."""
    queue, count = queue_name(), 40 if run.is_quick else 150
    peer_broker = run.broker(peer, latency_s)
    if peer == "boto3":
        return _percentiles(child("wake_up", count, run.broker("sqs", latency_s), queue)["samples"])
    with Worker(run.services, peer_broker, [queue], pool=pool) as running:
        running.wait_ready()
        child("latency", count, peer_broker, queue)
        running.wait_done((count + LATENCY_WARM_UP_COUNT) * STAMP.size)
    samples = [done - sent for sent, done in STAMP.iter_unpack(running.stamps)]
    return _percentiles(samples[LATENCY_WARM_UP_COUNT:])


def idle(run: Run, peer: str, latency_s: float) -> Figures:
    """Requests of a worker that has nothing to do, per hour and queue, and its processor time."""
    queues = [f"{queue_name()}-{number}" for number in range(IDLE_QUEUES)]
    proxy = run.services.start_proxy(latency_s) if peer in AWS else None
    with Worker(run.services, broker(run.services, peer, latency_s, proxy=proxy), queues, pool="solo") as running:
        running.wait_ready()
        time.sleep(IDLE_SETTLE_S)
        before, started_at = running.usage(), time.monotonic()
        if proxy:
            proxy.reset_stats()
        time.sleep(46.0 if run.is_quick else 66.0)
        seconds = time.monotonic() - started_at
        figures: Figures = {"cpu_percent": (running.usage().cpu_s - before.cpu_s) / seconds * 100}
        if proxy:
            stats = proxy.stats()
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
    proxy = RemoteProxy(peer_broker.proxy_url) if peer_broker.proxy_url else None
    for name in ("new", "again"):
        if proxy:
            proxy.reset_stats()
        with Worker(run.services, peer_broker, queues, pool="solo") as running:
            running.wait_ready()
            figures[f"worker_{name}_s"] = running.ready_s
            if proxy:
                figures[f"worker_{name}_polling_s"] = _wait_for_polls(proxy, queues, running)
                requests = proxy.stats()["requests"]
                figures[f"worker_{name}_requests"] = sum(requests.values()) - requests.get("ReceiveMessage", 0)
    return figures


def long_run(run: Run, peer: str, latency_s: float) -> Figures:
    """Many tasks through one worker: nothing lost, memory bounded."""
    queue, count = queue_name(), 10_000 if run.is_quick else 100_000
    child("fill", count, run.broker(peer, 0.0, is_counted=False), queue)
    peer_broker = run.broker(peer, latency_s)
    with Worker(run.services, peer_broker, [queue], pool="solo", multiplier=32) as running:
        figures = running.measure(count)
        figures["done"] = running.done_count
    figures["left"] = aws.left_in(peer_broker.aws_url, queue)
    return figures


# ---- sizes: about three seconds of work each; (no added latency, far)

SENT = {"hake": (3000, 240), "sqs": (3000, 240), "redis": (9000, 240), "rabbitmq": (6000, 240), "boto3": (3000, 240)}
SENT_BY_THREADS = {"hake": (3200, 3200), "sqs": (1600, 1600), "redis": (3200, 3200), "rabbitmq": (3200, 3200)}
BATCHED = {"hake": (6000, 6000), "sqs": (3000, 240), "redis": (6000, 240), "rabbitmq": (6000, 240)}
CONSUMED = {"hake": (9000, 9000), "sqs": (2400, 240), "redis": (3000, 240), "rabbitmq": (9000, 9000)}
TASKS = {"hake": (3600, 3600), "sqs": (450, 240), "redis": (2400, 240), "rabbitmq": (3600, 3600)}
TASKS_FEW_AT_ONCE = {"hake": (1800, 1800), "sqs": (300, 120), "redis": (1800, 150), "rabbitmq": (1800, 1800)}
FANNED = {"hake": (1500, 1500), "sqs": (300, 60), "redis": (1500, 240), "rabbitmq": (1500, 240)}


def _size(sizes: dict[str, tuple[int, int]], peer: str, latency_s: float) -> int:
    return sizes[peer][latency_s > 0]


AWS = ("hake", "sqs")
ALL = ("hake", "sqs", "redis", "rabbitmq")


@dataclass(frozen=True)
class Item:
    """One line of the plan.

    Attributes:
        action: The scenario.
        peers: Who takes part.
        where: ``near`` (no added latency), ``far`` or both.
        quick_peers, quick_where: The same for the quick run; no peers: left out there.
        is_repeated: Run in every round; otherwise in the first only.
        is_background: Measures no speed: all peers at once, beside everything else.
    """

    action: Callable[[Run, str, float], Figures]
    peers: tuple[str, ...] = ALL
    where: tuple[str, ...] = ("near", "far")
    quick_peers: tuple[str, ...] = ALL
    quick_where: tuple[str, ...] = ("far",)
    is_repeated: bool = True
    is_background: bool = False


def fan_out(group_count: int, run: Run, peer: str, latency_s: float) -> Figures:
    """Events to an exchange with so many groups; sizes shrink with the number of groups."""
    sizes = {name: (near * 3 // group_count, far * 3 // group_count) for name, (near, far) in FANNED.items()}
    return in_child("fan_out", sizes, run, peer, latency_s, groups=group_count)


def _sent(scenario: str, sizes: dict[str, tuple[int, int]], **item: Any) -> Item:
    return Item(partial(in_child, scenario, sizes), **item)


FAR = ("far",)
BOTH = ("near", "far")
PLAN: dict[str, Item] = {
    "idle": Item(idle, where=FAR, is_repeated=False, is_background=True),
    "publish": _sent("publish", SENT, quick_peers=AWS, quick_where=BOTH),
    "boto3": _sent("boto3_send", SENT, peers=("boto3",), quick_peers=("boto3",), quick_where=BOTH),
    "delay": _sent("delay", SENT, where=FAR),
    "delay_16": _sent("delay_threads", SENT_BY_THREADS, where=FAR),
    "batch": _sent("batch", BATCHED, where=FAR),
    "delay_batch": _sent("delay_batch", BATCHED, where=FAR, quick_peers=AWS),
    "consume": Item(consume, quick_where=BOTH),
    "prefork_32": Item(partial(worker, "prefork", 32)),
    "prefork_4": Item(partial(worker, "prefork", 4), where=FAR, quick_peers=(), is_repeated=False),
    "threads_4": Item(partial(worker, "threads", 4), where=FAR, quick_peers=(), is_repeated=False),
    "solo_4": Item(partial(worker, "solo", 4), where=FAR, quick_peers=AWS, is_repeated=False),
    "fan_out_3": Item(partial(fan_out, 3), where=FAR),
    "fan_out_10": Item(partial(fan_out, 10), where=FAR, quick_peers=(), is_repeated=False),
    "latency_prefork": Item(partial(end_to_end, "prefork"), peers=ALL, where=FAR, quick_peers=(), is_repeated=False),
    "latency_solo": Item(
        partial(end_to_end, "solo"), peers=("boto3", *ALL), where=FAR, quick_peers=("boto3", *AWS), is_repeated=False
    ),
    "start_up": Item(start_up, where=FAR, quick_peers=AWS, is_repeated=False),
    "long_run": Item(long_run, peers=("hake",), where=("near",), quick_peers=(), is_repeated=False),
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


def _wait_for_polls(proxy: RemoteProxy, queues: list[str], running: Worker) -> float | None:
    """Seconds from the worker's start until every queue has been asked once; None when that takes too long."""
    while time.monotonic() - running.started_at < MANY_QUEUES_TIMEOUT_S:
        if all(queue in proxy.stats()["polls"] for queue in queues):
            return time.monotonic() - running.started_at
        time.sleep(0.02)
    return None
