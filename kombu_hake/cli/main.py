"""``celery -A shop hake …``: prints what :mod:`kombu_hake.admin` finds. Celery loads it by its entry point.

Celery imports this module at the start of each of its commands, so it imports only click.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click

from kombu_hake.cli.check import check
from kombu_hake.cli.cost import cost
from kombu_hake.cli.dlq import dlq
from kombu_hake.cli.export import export
from kombu_hake.cli.janitor import janitor
from kombu_hake.cli.plan import apply, plan
from kombu_hake.cli.tools import connected, say

__all__ = ["hake"]


@click.group()
def hake() -> None:
    """Topics, consumer groups and dead letters on SNS and SQS."""


hake.add_command(check)
hake.add_command(dlq)
hake.add_command(cost)
hake.add_command(export)
hake.add_command(janitor)
hake.add_command(plan)
hake.add_command(apply)


@hake.command()
@click.argument("names", nargs=-1, metavar="[GROUP]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("--watch", is_flag=False, flag_value=2.0, type=click.FloatRange(min=0.1), metavar="[SECONDS]",
              help="Again and again, every two seconds or so many, until Ctrl-C.")  # fmt: skip
@click.pass_context
def groups(ctx: click.Context, names: tuple[str, ...], as_json: bool, watch: float | None) -> None:
    """Show groups: their keys, waiting messages and dead letters.

    Shows the groups of this app and all other queues that listen to its topics, or only the named groups (queues).
    """
    from kombu_hake.cli.tables import groups_table

    with connected(ctx) as broker:
        while True:
            found = broker.groups(names)
            text = json.dumps([group.as_dict() for group in found], indent=2) if as_json else groups_table(found)
            if watch and not as_json:
                click.clear()
            say(text)
            if not watch:
                return
            _sleep(watch)


@hake.command()
@click.option("--format", "form", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@click.option("-o", "--output", type=click.File("w"), default="-", help="A file instead of standard output.")
@click.pass_context
def graph(ctx: click.Context, form: str, output: Any) -> None:
    """Draw the topology: topics, the keys that groups listen to, handlers, dead letters."""
    from kombu_hake.cli import graph as cli_graph

    draw = {"mermaid": cli_graph.mermaid, "dot": cli_graph.dot}[form]
    with connected(ctx) as broker:
        output.write(draw(broker.groups()))


def _sleep(seconds: float) -> None:
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None
