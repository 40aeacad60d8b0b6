"""What this transport promises over its peers, as checks on one run's figures; and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from . import pairs

SQS_PER_MILLION_USD = 0.40
SNS_PER_MILLION_USD = 0.50
"""us-east-1, standard queues and topics, small messages, beyond the free tier; SNS to SQS delivery is free."""

Results = dict[str, Any]


BASELINE = "baseline"


@dataclass(frozen=True)
class Outcome:
    """What a run says about a target: three columns of a table."""

    text: str
    rounds: str
    verdict: str


class Target(Protocol):
    """One promise; ``judge`` raises KeyError when the run has not measured it."""

    name: str

    @property
    def wanted(self) -> str: ...

    def judge(self, results: Results) -> Outcome: ...


@dataclass(frozen=True)
class Number:
    """A promise about one number of a run.

    Attributes:
        name: What is compared.
        line: None when the figure is only stated.
        value: The figure; raises KeyError when the run has not measured it.
        is_lower_better: Whether the figure should stay below the line.
    """

    name: str
    line: float | None
    value: Callable[[Results], float]
    unit: str = ""
    is_lower_better: bool = True

    @property
    def wanted(self) -> str:
        return _wanted(self.line, self.unit, self.is_lower_better)

    def judge(self, results: Results) -> Outcome:
        value = self.value(results)
        verdict = ""
        if self.line is not None:
            is_met = value <= self.line if self.is_lower_better else value >= self.line
            verdict = _verdict(is_met)
        return Outcome(f"{value:.2f} {self.unit}".strip(), "", verdict)


@dataclass(frozen=True)
class Pair:
    """A promise about ours over a peer's, within rounds: the median, and seven rounds of nine, on the right side.

    Attributes:
        peer: ``baseline`` is the first baseline of the run.
        figure: ``rate`` should be above the line, processor time below.
        scenario, where: Of both; ``their_scenario``, ``their_where``: the peer's, when it is another.
    """

    name: str
    line: float | None
    scenario: str
    where: str
    peer: str
    figure: str = "rate"
    their_scenario: str = ""
    their_where: str = ""

    @property
    def is_lower_better(self) -> bool:
        return self.figure != "rate"

    @property
    def wanted(self) -> str:
        return _wanted(self.line, "x", self.is_lower_better)

    def ratio(self, results: Results) -> pairs.Ratio:
        """Raises KeyError when a side was not measured."""
        peers = results["settings"]["baselines"][:1] if self.peer == BASELINE else [self.peer]
        samples = results["samples"]
        ours = samples[self.scenario][self.where]["hake"]
        theirs = samples[self.their_scenario or self.scenario][self.their_where or self.where]
        return pairs.ratio(ours, [sample for peer in peers for sample in theirs[peer]], self.figure)

    def judge(self, results: Results) -> Outcome:
        ratio = self.ratio(results)
        text = f"{ratio.median:.2f} x ({ratio.least:.2f} to {ratio.most:.2f})"
        if self.line is None:
            return Outcome(text, "", "")
        met = ratio.met(self.line, is_lower_better=self.is_lower_better)
        verdict = _verdict(ratio.is_met(self.line, is_lower_better=self.is_lower_better))
        return Outcome(text, f"{met} of {len(ratio.values)}", verdict)


def _wanted(line: float | None, unit: str, is_lower_better: bool) -> str:
    if line is None:
        return "(stated)"
    return f"{'≤' if is_lower_better else '≥'} {line:g} {unit}".strip()


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"


def figure(results: Results, scenario: str, where: str, peer: str, name: str) -> float:
    """One number of a run. Raises KeyError when it was not measured."""
    return float(results["figures"][scenario][where][peer][name])


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


def _tls_over_plain(name: str, plain: Pair) -> Number:
    """The median ratio over TLS against the one without: at most a tenth worse."""

    def value(results: Results) -> float:
        secure = replace(plain, scenario=f"{plain.scenario}_tls")
        return secure.ratio(results).median / plain.ratio(results).median

    is_lower_better = plain.is_lower_better
    return Number(name, 1.1 if is_lower_better else 0.9, value, "x", is_lower_better=is_lower_better)


OWN = "own_us"
PREFORK_OVER_RABBITMQ = Pair("  10 ms", 1.15, "prefork_32", "far", "rabbitmq")
PREFORK_CPU_OVER_RABBITMQ = Pair("  CPU of the main process, 10 ms", 0.85, "prefork_32", "far", "rabbitmq", OWN)
PUBLISH_CPU_OVER_RABBITMQ = Pair("  CPU, 10 ms", None, "publish", "far", "rabbitmq", OWN)
CONSUME_OVER_SQS = Pair("consume and ack, 10 ms, over sqs://", 50, "consume", "far", "sqs")
TARGETS: list[Target] = [
    Pair("worker, prefork 2, over RabbitMQ", 1.15, "prefork_32", "near", "rabbitmq"),
    PREFORK_OVER_RABBITMQ,
    Pair("  CPU of the main process", None, "prefork_32", "near", "rabbitmq", OWN),
    PREFORK_CPU_OVER_RABBITMQ,
    Pair("worker, solo, over RabbitMQ, 10 ms", 1.2, "solo_32", "far", "rabbitmq"),
    Pair("  CPU", 0.72, "solo_32", "far", "rabbitmq", OWN),
    Pair("worker, threads 2, over RabbitMQ, 10 ms", 1.4, "threads_32", "far", "rabbitmq"),
    Pair("receive 10 and delete 10, CPU over the baseline", 0.36, "wire", "near", BASELINE, OWN),
    Pair("publish to a queue, CPU over RabbitMQ", 1.1, "publish", "near", "rabbitmq", OWN),
    Pair("  rate", 1.5, "publish", "near", "rabbitmq"),
    PUBLISH_CPU_OVER_RABBITMQ,
    Pair("publish to an exchange, CPU over RabbitMQ", 1.5, "publish_exchange", "near", "rabbitmq", OWN),
    Pair("  rate", 1.2, "publish_exchange", "near", "rabbitmq"),
    Pair("  CPU, 10 ms", None, "publish_exchange", "far", "rabbitmq", OWN),
    Pair("to a queue in a batch, CPU over the baseline", 0.6, "batch", "far", BASELINE, OWN),
    Pair("to an exchange in a batch, CPU over the baseline", 0.35, "batch_exchange", "far", BASELINE, OWN),
    Pair("to a queue in a batch, 10 ms, over sqs://", 60, "batch", "far", "sqs"),
    Pair("  by .delay()", None, "delay_batch", "far", "sqs"),
    Pair("fan-out to 3 groups over the baseline", 2, "fan_out_3", "far", BASELINE),
    CONSUME_OVER_SQS,
    Pair("  no added latency", 5, "consume", "near", "sqs"),
    _tls_over_plain("  TLS over plain", CONSUME_OVER_SQS),
    _tls_over_plain("worker, prefork 2, over RabbitMQ, TLS over plain", PREFORK_OVER_RABBITMQ),
    _tls_over_plain("  CPU of the main process", PREFORK_CPU_OVER_RABBITMQ),
    _tls_over_plain("publish to a queue, CPU over RabbitMQ, TLS over plain", PUBLISH_CPU_OVER_RABBITMQ),
    Pair("worker, prefork 2, 10 ms, over sqs://", 10, "prefork_32", "far", "sqs"),
    Pair("  over Redis", 1, "prefork_32", "far", "redis"),
    Pair("  over Redis without latency", None, "prefork_32", "far", "redis", their_where="near"),
    Pair(".delay() from 16 threads over one thread of sqs://", 10, "delay_16", "far", "sqs", their_scenario="delay"),
    Number("  requests per message", 0.3, lambda results: figure(results, "delay_16", "far", "hake", "per_message")),
    Pair("publish to a queue over sqs://", 1, "publish", "near", "sqs"),
    Pair("  10 ms", 1, "publish", "far", "sqs"),
    Pair("  CPU over bare boto3", 1.15, "publish", "near", "boto3", OWN),
    Number("requests per task, multiplier 32", 1.25, lambda results: per_task(results, "hake")),
    Number("  multiplier 4", None, lambda results: per_task(results, "hake", "prefork_4")),
    Number("  batched", 0.35, lambda results: per_task(results, "hake", is_batched=True)),
    Number(
        "requests per event, 3 groups, batched",
        0.75,
        lambda results: figure(results, "fan_out_3", "far", "hake", "per_message"),
    ),
    Number(
        "idle, requests per hour and queue",
        185,
        lambda results: figure(results, "idle", "far", "hake", "per_hour"),
    ),
    Number("latency over bare boto3, p50", 3, _over_wake_up("p50_ms"), "ms"),
    Number("latency over bare boto3, p99", 15, _over_wake_up("p99_ms"), "ms"),
    Number("100,000 tasks through one worker, lost", 0, _lost),
    Number("  memory growth after the first tenth", 16, _growth_mb, "MiB"),
]
