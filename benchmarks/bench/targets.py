"""What this transport promises over its peers, as checks on one run's figures; and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SQS_PER_MILLION_USD = 0.40
SNS_PER_MILLION_USD = 0.50
"""us-east-1, standard queues and topics, small messages, beyond the free tier; SNS to SQS delivery is free."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        name: What is compared.
        wanted: As text.
        value: The figure; raises KeyError when the run has not measured it.
        is_met: Whether a figure meets it.
        unit: Of the figure: ``x`` or a word.
    """

    name: str
    wanted: str
    value: Callable[[Results], float]
    is_met: Callable[[float], bool]
    unit: str = "x"


def figure(results: Results, scenario: str, where: str, peer: str, name: str) -> float:
    """One number of a run. Raises KeyError when it was not measured."""
    return float(results["figures"][scenario][where][peer][name])


def ratio(scenario: str, where: str, name: str = "rate", peer: str = "sqs") -> Callable[[Results], float]:
    """Ours over the peer's."""
    return lambda results: figure(results, scenario, where, "hake", name) / figure(results, scenario, where, peer, name)


def per_task(results: Results, peer: str, worker: str = "prefork_32", *, is_batched: bool = False) -> float:
    """Requests for one task: to publish it, receive it and settle it."""
    sending = "delay_batch" if is_batched else "delay"
    sent = figure(results, sending, "far", peer, "per_message")
    return sent + figure(results, worker, "far", peer, "per_message")


def per_million_tasks_usd(results: Results, peer: str, *, is_batched: bool = False) -> float:
    """Price of the requests of a million tasks through one queue."""
    return per_task(results, peer, is_batched=is_batched) * SQS_PER_MILLION_USD


def per_million_events_usd(results: Results, peer: str, groups: int) -> float:
    """Price of the requests of a million events to so many groups."""
    figures = results["figures"][f"fan_out_{groups}"]["far"][peer]
    publishes = sum(n for action, n in figures["requests"].items() if action.startswith("Publish"))
    others = sum(figures["requests"].values()) - publishes
    return float((publishes * SNS_PER_MILLION_USD + others * SQS_PER_MILLION_USD) / figures["count"])


def _publish_cpu(results: Results) -> float:
    ours = figure(results, "publish", "near", "hake", "cpu_ms")
    return ours / figure(results, "boto3", "near", "boto3", "cpu_ms")


def _delay_threads(results: Results) -> float:
    return figure(results, "delay_16", "far", "hake", "rate") / figure(results, "delay", "far", "sqs", "rate")


def _over_near_redis(results: Results) -> float:
    ours = figure(results, "prefork_32", "far", "hake", "rate")
    return ours / figure(results, "prefork_32", "near", "redis", "rate")


def _over_wake_up(percentile: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        ours = figure(results, "latency_solo", "far", "hake", percentile)
        return ours - figure(results, "latency_solo", "far", "boto3", percentile)

    return value


def _lost(results: Results) -> float:
    run = results["figures"]["long_run"]["near"]["hake"]
    return float(run["count"] - run["done"] + run["left"])


def _growth_mb(results: Results) -> float:
    """From a tenth of the tasks to the end."""
    memory_mb = results["figures"]["long_run"]["near"]["hake"]["memory_mb"]
    return float(memory_mb[-1] - memory_mb[0])


def at_least(limit: float) -> Callable[[float], bool]:
    return lambda value: value >= limit


def at_most(limit: float) -> Callable[[float], bool]:
    return lambda value: value <= limit


TARGETS = [
    Target("consume and ack, 10 ms", "≥ 40x", ratio("consume", "far"), at_least(40)),
    Target("consume and ack, no added latency", "≥ 5x", ratio("consume", "near"), at_least(5)),
    Target("worker, prefork 2, 10 ms", "≥ 10x", ratio("prefork_32", "far"), at_least(10)),
    Target("  over the Redis worker", "≥ 1x", ratio("prefork_32", "far", peer="redis"), at_least(1)),
    Target("  over the Redis worker without latency", "(stated)", _over_near_redis, lambda value: True),
    Target("  over the RabbitMQ worker", "aim ≥ 1x", ratio("prefork_32", "far", peer="rabbitmq"), at_least(1)),
    Target("batch publish, 10 ms", "≥ 50x", ratio("batch", "far"), at_least(50)),
    Target("  by .delay()", "(stated)", ratio("delay_batch", "far"), lambda value: True),
    Target(".delay() from 16 threads over one thread", "≥ 10x", _delay_threads, at_least(10)),
    Target(
        "  requests per message",
        "≤ 0.3",
        lambda results: figure(results, "delay_16", "far", "hake", "per_message"),
        at_most(0.3),
        "",
    ),
    Target("single publish, no added latency", "≥ 1x", ratio("publish", "near"), at_least(1)),
    Target("single publish, 10 ms", "≥ 1x", ratio("publish", "far"), at_least(1)),
    Target("single publish, CPU over bare boto3", "≤ 1.15x", _publish_cpu, at_most(1.15)),
    Target("requests per task, multiplier 32", "≤ 1.25", lambda r: per_task(r, "hake"), at_most(1.25), ""),
    Target("  multiplier 4", "(stated)", lambda r: per_task(r, "hake", "prefork_4"), lambda value: True, ""),
    Target("  batched", "≤ 0.35", lambda r: per_task(r, "hake", is_batched=True), at_most(0.35), ""),
    Target(
        "requests per event, 3 groups, batched",
        "≤ 0.75",
        lambda results: figure(results, "fan_out_3", "far", "hake", "per_message"),
        at_most(0.75),
        "",
    ),
    Target(
        "idle, requests per hour and queue",
        "≤ 185",
        lambda results: figure(results, "idle", "far", "hake", "per_hour"),
        at_most(185),
        "",
    ),
    Target("latency over bare boto3, p50", "≤ 3 ms", _over_wake_up("p50_ms"), at_most(3), "ms"),
    Target("latency over bare boto3, p99", "≤ 15 ms", _over_wake_up("p99_ms"), at_most(15), "ms"),
    Target("100,000 tasks through one worker, lost", "0", _lost, at_most(0), ""),
    Target("  memory growth after the first tenth", "≤ 16 MiB", _growth_mb, at_most(16), "MiB"),
]
