"""``celery -A shop hake queues`` and ``groups``: counts of queues, a check of them, and what groups handle."""

from __future__ import annotations

import json

import click

from kombu_hake.cli.tools import SPAN, again, connected, note, say, watch_option

__all__ = ["groups", "queues"]


@click.command()
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@watch_option
@click.option("--max-ready", type=click.IntRange(min=0), metavar="N", help="Fail if more messages are ready.")
@click.option("--max-age", type=SPAN, metavar="TIME", help="Fail if the oldest message is older: 90s, 15m, 2h, 3d.")
@click.option("--max-dead", type=click.IntRange(min=0), metavar="N", help="Fail if more are dead, or undelivered.")
@click.pass_context
def queues(
    ctx: click.Context,
    names: tuple[str, ...],
    as_json: bool,
    watch: float | None,
    max_ready: int | None,
    max_age: float | None,
    max_dead: int | None,
) -> None:
    """Show the queues that the app consumes or routes tasks to: waiting messages, dead letters, state.

    With --max-ready, --max-age or --max-dead it is a check: exit code 2 if a queue exceeds a limit, is missing, or
    cannot be read.
    """
    from kombu_hake.admin import breaches
    from kombu_hake.cli.tables import queues_table

    found = []
    with connected(ctx) as broker:
        for _ in again(watch, clear=not as_json):
            infos = broker.queues(names)
            found = breaches(infos, max_ready=max_ready, max_age_s=max_age, max_dead=max_dead)
            if as_json:
                say(json.dumps({"queues": [one.as_dict() for one in infos], "breaches": found}, indent=2))
            else:
                say(queues_table(infos))
            for breach in found:
                note(breach)
    if found:
        ctx.exit(2)


@click.command()
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
