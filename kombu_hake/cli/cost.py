"""``celery hake cost``: what a load would cost. Asks nobody; the model is :mod:`kombu_hake.cli.costs`."""

from __future__ import annotations

import json

import click

from kombu_hake.cli import costs
from kombu_hake.cli.tables import table
from kombu_hake.cli.tools import note, say

__all__ = ["cost"]


@click.command()
@click.argument("per_second", type=click.FloatRange(min=0), metavar="MESSAGES_A_SECOND")
@click.option("--groups", type=click.IntRange(min=0), default=0, show_default=True,
              help="Groups that get each message; 0: sent straight to one queue.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers of each group.")
@click.option("--handlers", type=click.IntRange(min=1), default=1, show_default=True,
              help="Handlers of each message in a group.")
@click.option("--prefetch", type=click.IntRange(min=1), default=8, show_default=True,
              help="Prefetch count of a worker: concurrency times worker_prefetch_multiplier.")
@click.option("--size", type=click.IntRange(min=1, max=1024), default=1, show_default=True, help="KiB of a message.")
@click.option("--batch", is_flag=True, help="Published in batches of ten.")
@click.option("--backlog", is_flag=True, help="The queues always hold more than the workers have taken.")
@click.option("--held", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Seconds from receiving a message to acknowledging it.")
@click.option("--no-remote-control", is_flag=True, help="Workers without Celery's remote control.")
@click.option("--sqs-price", type=click.FloatRange(min=0), default=costs.SQS_USD, show_default=True,
              help=f"USD for a million requests ({costs.PRICES_FROM}).")
@click.option("--sns-price", type=click.FloatRange(min=0), default=costs.SNS_USD, show_default=True,
              help=f"USD for a million requests ({costs.PRICES_FROM}).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")  # fmt: skip
def cost(
    per_second: float, groups: int, workers: int, handlers: int, prefetch: int, size: int, batch: bool, backlog: bool,
    held: float, no_remote_control: bool, sqs_price: float, sns_price: float, as_json: bool,
) -> None:  # fmt: skip
    """Estimate requests and their price for a month of thirty days.

    For one exchange, or one queue, at a steady rate. Connects to nothing, and needs no app.
    """
    load = costs.Load(
        per_second=per_second, groups=groups, workers=workers, handlers=handlers, prefetch=prefetch,
        size_bytes=size * 1024, is_batched=batch, has_backlog=backlog, held_s=held,
        remote_control=not no_remote_control,
    )  # fmt: skip
    requests = costs.requests_a_month(load)

    def usd(*names: str) -> float:
        return costs.price_usd({name: requests[name] for name in names}, sqs_usd=sqs_price, sns_usd=sns_price)

    if as_json:
        say(json.dumps({"requests": {n: round(c) for n, c in requests.items()}, "usd": round(usd(*requests), 2)}))
        return
    rows = [[name, f"{count:,.0f}", f"{usd(name):,.2f}"] for name, count in requests.items() if count >= 0.5]
    rows.append(["together", f"{sum(requests.values()):,.0f}", f"{usd(*requests):,.2f}"])
    say(table(["REQUESTS", "A MONTH", "USD"], rows, right=(1, 2)))
    note(f"At {sqs_price:.2f} (SQS) and {sns_price:.2f} USD (SNS) for a million; free requests are not taken off.")
