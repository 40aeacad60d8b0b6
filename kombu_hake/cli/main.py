"""``celery -A shop hake …``: prints what :mod:`kombu_hake.admin` finds. Celery loads it by its entry point.

Celery imports this module at the start of each of its commands, so it imports only click.
"""

from __future__ import annotations

import json
from typing import Any

import click

from kombu_hake.cli.check import check
from kombu_hake.cli.cost import cost
from kombu_hake.cli.dlq import dlq
from kombu_hake.cli.export import export
from kombu_hake.cli.health import health
from kombu_hake.cli.janitor import janitor
from kombu_hake.cli.plan import apply, plan
from kombu_hake.cli.queues import queues
from kombu_hake.cli.tools import again, connected, say, watch_option

__all__ = ["hake"]


class _Group(click.Group):
    """Commands that exit with 1 after wrong arguments."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            vars(exc)["exit_code"] = 1  # click's own is 2, which here means that a check has failed
            raise


@click.group(cls=_Group)
def hake() -> None:
    """Queues, topics, consumer groups and dead letters on SNS and SQS."""


hake.add_command(check)
hake.add_command(dlq)
hake.add_command(cost)
hake.add_command(export)
hake.add_command(janitor)
hake.add_command(queues)
hake.add_command(health)
hake.add_command(plan)
hake.add_command(apply)


@hake.command()
@click.argument("names", nargs=-1, metavar="[GROUP]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@watch_option
@click.pass_context
def groups(ctx: click.Context, names: tuple[str, ...], as_json: bool, watch: float | None) -> None:
    """Show groups: their waiting messages, dead letters, keys and handlers.

    Shows the groups of this app and all other queues that listen to its topics, or only the named groups (queues).
    """
    from kombu_hake.cli.tables import groups_table

    with connected(ctx) as broker:
        for _ in again(watch, clear=not as_json):
            found = broker.groups(names)
            say(json.dumps([group.as_dict() for group in found], indent=2) if as_json else groups_table(found))


@hake.command()
@click.option("--format", "form", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@click.option("-o", "--output", type=click.File("w"), default="-", help="Write to a file instead of standard output.")
@click.pass_context
def graph(ctx: click.Context, form: str, output: Any) -> None:
    """Draw the topology: topics, the keys that groups are bound to, handlers, dead letters."""
    from kombu_hake.cli import graph as cli_graph

    draw = {"mermaid": cli_graph.mermaid, "dot": cli_graph.dot}[form]
    with connected(ctx) as broker:
        output.write(draw(broker.groups()))
