"""``celery hake cost``: estimate the AWS requests per month of a load, and their price. Does not connect.

The model, which ``docs/cost.md`` explains and the tests compare with what the benchmark measured:

* Sending takes one request a message, or one for ten in batches.
* A worker's poll brings one message when messages come one at a time, what came meanwhile when they come faster, and
  as many as it may ask for (ten, or half of its prefetch count) when the queue holds more than that.
* Deletes gather for a tenth of a second.
* A poll that brings nothing lasts twenty seconds.
* Every ``check_bindings`` seconds a worker compares each bound queue: one request for its policy, one for its
  subscription. A process spends six such requests an interval at most; these queues need no more than four.
* AWS bills each 64 KiB of a request.
* With tenants, AWS charges extra for fair queues. Its price list does not say for which requests; the model takes all
  that send, receive, renew or delete messages, so the estimate is an upper bound.
* A message in S3 is a PUT for its publish and a GET for each receive, each for 8 MiB; a larger one takes two PUTs more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import click

from kombu_hake.amqp import MAX_BATCH_ENTRIES, SNS_MAX_BATCH_BYTES, SQS_MAX_BATCH_BYTES, SQS_MAX_WAIT_S
from kombu_hake.cli.tables import table
from kombu_hake.cli.tools import note, say

__all__ = ["FAIR_USD", "MONTH_S", "PRICES_FROM", "SNS_USD", "SQS_USD", "Load", "cost", "price_usd", "requests_a_month"]

#: Thirty days.
MONTH_S = 30 * 24 * 3600
#: US dollars for a million requests: standard queues and topics, first price step, delivery from SNS to SQS is free.
SQS_USD = 0.40
SNS_USD = 0.50
#: Added to the price of SQS for messages with a MessageGroupId in standard queues.
FAIR_USD = 0.10
S3_PUT_USD = 5.00
S3_GET_USD = 0.40
PRICES_FROM = "us-east-1, 2026"

_BILLED_BYTES = 64 * 1024
#: Of an upload to S3, and of the message that points to it.
_PART_BYTES = 8 * 1024 * 1024
_POINTER_BYTES = 1024
#: From the answer of a poll until the next poll reaches AWS. Messages that arrive meanwhile are received together.
_GAP_S = 0.02
#: How long acks are collected (``Transport.ack_linger_s``).
_ACK_LINGER_S = 0.1
#: Heartbeats of a temporary queue per second: five in ``temporary_queue_limit``, which is ten minutes.
_HEARTBEATS_A_S = 5 / 600
#: Requests that are about messages of work.
_OF_MESSAGES = frozenset(
    {
        "sqs:SendMessage",
        "sqs:SendMessage to handlers",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
    }
)


@dataclass(frozen=True)
class Load:
    """The load of one exchange, or of one queue, constant for the month.

    Attributes:
        per_second: Messages published per second.
        groups: Queues that receive each message through the exchange; 0 for messages sent directly to a queue.
        workers: Worker processes (``celery worker``) of each group, or of the queue.
        handlers: Handlers of each message in a group (:meth:`kombu_hake.groups.topic.Topic.on`).
        prefetch: Prefetch count of a worker: its concurrency times ``worker_prefetch_multiplier``.
        size_bytes: Of a message, with its envelope and attributes.
        is_batched: Whether messages are published in batches of ten.
        has_backlog: Whether the queues always hold more messages than the workers have received.
        held_s: Time from receiving a message to acknowledging it, seconds.
        visibility_timeout: The option, seconds.
        remote_control: Whether workers have Celery's remote control, which is one more queue for each.
        check_bindings_s: The option ``check_bindings``; 0 for never.
        is_in_s3: Whether the messages go through S3 (``large_messages``). Handlers of a group share an object.
    """

    per_second: float = 0.0
    groups: int = 0
    workers: int = 1
    handlers: int = 1
    prefetch: int = 8
    size_bytes: int = 1024
    is_batched: bool = False
    has_backlog: bool = False
    held_s: float = 0.0
    visibility_timeout: int = 120
    remote_control: bool = True
    check_bindings_s: float = 300.0
    is_in_s3: bool = False


def requests_a_month(load: Load) -> Mapping[str, float]:
    """Requests per month as AWS bills them, by purpose, which starts with the service."""
    if load.is_in_s3:
        parts = math.ceil(load.size_bytes / _PART_BYTES)
        pointers = requests_a_month(replace(load, is_in_s3=False, size_bytes=_POINTER_BYTES))
        each = 1 + load.handlers if load.groups and load.handlers > 1 else 1
        gets = max(1, load.groups) * each * parts
        of_objects = {"s3:PutObject": parts if parts == 1 else parts + 2, "s3:GetObject": gets}
        return {**pointers, **{name: count * load.per_second * MONTH_S for name, count in of_objects.items()}}
    queues = max(1, load.groups)
    is_shared_out = load.groups > 0 and load.handlers > 1  # an event is received, and sent on to each handler
    received = load.per_second * (1 + load.handlers if is_shared_out else 1)  # from each queue
    send = "sns:Publish" if load.groups else "sqs:SendMessage"
    batch_limit = SNS_MAX_BATCH_BYTES if load.groups else SQS_MAX_BATCH_BYTES
    found = {
        send: load.per_second * _sending(load.size_bytes, MAX_BATCH_ENTRIES if load.is_batched else 1, batch_limit)
    }
    if is_shared_out:
        copies = _sending(load.size_bytes, min(load.handlers, MAX_BATCH_ENTRIES), SQS_MAX_BATCH_BYTES)
        found["sqs:SendMessage to handlers"] = queues * load.per_second * load.handlers * copies
    per_worker = received / load.workers
    at_once = _received_at_once(load, per_worker)
    found["sqs:ReceiveMessage"] = queues * received * _chunks(at_once * load.size_bytes) / at_once
    found["sqs:ReceiveMessage, empty"] = queues * load.workers * (0 if load.has_backlog else _empty_polls(per_worker))
    found["sqs:DeleteMessage"] = queues * received / min(MAX_BATCH_ENTRIES, 1 + per_worker * _ACK_LINGER_S)
    renewals = math.floor(load.held_s / (load.visibility_timeout / 2))
    found["sqs:ChangeMessageVisibility"] = queues * received * renewals / at_once
    controlled = queues * load.workers if load.remote_control else 0
    found["sqs:ReceiveMessage, remote control"] = controlled * _empty_polls(0)
    found["sqs:TagQueue, remote control"] = controlled * _HEARTBEATS_A_S
    bound = load.groups * load.workers + controlled
    checks = bound / load.check_bindings_s if load.check_bindings_s else 0.0
    found["sqs:GetQueueAttributes, checks"] = checks
    found["sns:GetSubscriptionAttributes, checks"] = checks
    return {name: a_second * MONTH_S for name, a_second in found.items()}


def price_usd(
    requests: Mapping[str, float], *, sqs_usd: float = SQS_USD, sns_usd: float = SNS_USD, fair_usd: float = 0.0
) -> float:
    """US dollars for these requests.

    Args:
        sqs_usd, sns_usd: Price of a million requests.
        fair_usd: What a million requests to SQS cost more if messages have a tenant.
    """
    of_s3 = {"s3:PutObject": S3_PUT_USD, "s3:GetObject": S3_GET_USD}

    def price(name: str) -> float:
        if name in of_s3:
            return of_s3[name]
        return sns_usd if name.startswith("sns:") else sqs_usd + (fair_usd if name in _OF_MESSAGES else 0.0)

    return sum(count * price(name) for name, count in requests.items()) / 1e6


def _received_at_once(load: Load, per_worker: float) -> float:
    most = min(MAX_BATCH_ENTRIES, max(1, load.prefetch // 2))
    return most if load.has_backlog else min(most, 1 + per_worker * _GAP_S)


def _sending(size_bytes: int, entries: int, limit_bytes: int) -> float:
    """Billed requests per message, if this many share a request as far as they fit."""
    entries = max(1, min(entries, limit_bytes // size_bytes))
    return _chunks(entries * size_bytes) / entries


def _chunks(size_bytes: float) -> int:
    return max(1, math.ceil(size_bytes / _BILLED_BYTES))


def _empty_polls(per_second: float) -> float:
    """Empty polls per second, if messages arrive at random and each is received at once."""
    expected = per_second * SQS_MAX_WAIT_S
    return 1 / SQS_MAX_WAIT_S if expected < 1e-9 else per_second / math.expm1(expected) if expected < 700 else 0.0


@click.command()
@click.argument("per_second", type=click.FloatRange(min=0), metavar="MESSAGES_A_SECOND")
@click.option("--groups", type=click.IntRange(min=0), default=0, show_default=True,
              help="Groups that get each message; 0: messages are sent straight to one queue.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers of each group.")
@click.option("--handlers", type=click.IntRange(min=1), default=1, show_default=True,
              help="Handlers of each message in a group.")  # fmt: skip
@click.option("--prefetch", type=click.IntRange(min=1), default=8, show_default=True,
              help="Prefetch count of a worker: concurrency times worker_prefetch_multiplier.")  # fmt: skip
@click.option("--size", type=click.IntRange(min=1, max=262_144), default=1, show_default=True,
              help="Size of a message, KiB; more than 1024 only with --s3.")  # fmt: skip
@click.option("--s3", is_flag=True, help="The messages go through S3 (large_messages).")
@click.option("--batch", is_flag=True, help="Messages are published in batches of ten.")
@click.option("--backlog", is_flag=True, help="Messages always wait in the queues.")
@click.option("--held", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Seconds from receiving a message to acknowledging it.")  # fmt: skip
@click.option("--tenants", is_flag=True, help="Messages have a tenant (fair queues): "
              f"{FAIR_USD:.2f} USD more per million requests.")  # fmt: skip
@click.option("--no-remote-control", is_flag=True, help="Workers have no remote control.")
@click.option("--check-bindings", type=click.FloatRange(min=0), default=300.0, show_default=True,
              help="Seconds between two checks of a bound queue; 0: never.")  # fmt: skip
@click.option("--sqs-price", type=click.FloatRange(min=0), default=SQS_USD, show_default=True,
              help=f"USD for a million requests ({PRICES_FROM}).")  # fmt: skip
@click.option("--sns-price", type=click.FloatRange(min=0), default=SNS_USD, show_default=True,
              help=f"USD for a million requests ({PRICES_FROM}).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def cost(
    per_second: float, groups: int, workers: int, handlers: int, prefetch: int, size: int, s3: bool, batch: bool,
    backlog: bool, held: float, tenants: bool, no_remote_control: bool, check_bindings: float, sqs_price: float,
    sns_price: float, as_json: bool,
) -> None:  # fmt: skip
    """Estimate requests and their price for a month of thirty days.

    For one exchange, or one queue, at a steady rate. Does not connect, and needs no app.
    """
    if size > 1024 and not s3:
        raise click.BadParameter("SQS takes up to 1024 KiB; larger messages go through S3: --s3", param_hint="--size")
    load = Load(
        per_second=per_second, groups=groups, workers=workers, handlers=handlers, prefetch=prefetch,
        size_bytes=size * 1024, is_batched=batch, has_backlog=backlog, held_s=held,
        remote_control=not no_remote_control, check_bindings_s=check_bindings, is_in_s3=s3,
    )  # fmt: skip
    requests = requests_a_month(load)

    def usd(*names: str) -> float:
        chosen, fair_usd = {name: requests[name] for name in names}, FAIR_USD if tenants else 0.0
        return price_usd(chosen, sqs_usd=sqs_price, sns_usd=sns_price, fair_usd=fair_usd)

    if as_json:
        say(json.dumps({"requests": {n: round(c) for n, c in requests.items()}, "usd": round(usd(*requests), 2)}))
        return
    rows = [[name, f"{count:,.0f}", f"{usd(name):,.2f}"] for name, count in requests.items() if count >= 0.5]
    rows.append(["together", f"{sum(requests.values()):,.0f}", f"{usd(*requests):,.2f}"])
    say(table(["REQUESTS", "A MONTH", "USD"], rows, right=(1, 2)))
    prices = f"{sqs_price:.2f} (SQS) and {sns_price:.2f} USD (SNS) for a million"
    if tenants:
        prices += f", {FAIR_USD:.2f} more with tenants"
    if s3:
        prices += f", {S3_PUT_USD:.2f} (PUT) and {S3_GET_USD:.2f} (GET) of S3"
    note(f"At {prices}; free requests are not deducted.")
