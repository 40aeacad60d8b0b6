"""``celery -A shop hake dlq …``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from kombu_hake.cli.tools import connected, note, say, which_letters

if TYPE_CHECKING:
    from kombu_hake.admin import Admin, Outcome, QueueInfo, Selection

__all__ = ["dlq"]


@click.group()
def dlq() -> None:
    """Dead letters of groups and other queues: list, peek, requeue, export, purge."""


@dlq.command("list")
@click.argument("group", required=False)
@which_letters
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_context
def list_(ctx: click.Context, /, group: str | None, as_json: bool, limit: int | None, **which: Any) -> None:
    """List the dead letters of GROUP, a group or any other queue; without GROUP, how many each has.

    Reading messages requires receiving them: while the command runs they are hidden from other consumers.
    """
    from kombu_hake.cli.tables import dead_counts_table, letters_table

    with connected(ctx) as broker:
        if group is None:
            found: list[QueueInfo] = [*broker.groups(with_ages=False)]
            names = {queue.name for queue in found}
            for queue in broker.queues(with_ages=False):
                if queue.name not in names and (queue.dead_queue is not None or "dead" in queue.unreadable):
                    found.append(queue)
            counts = [{"group": queue.name, "dead_queue": queue.dead_queue, "dead": queue.dead} for queue in found]
            say(json.dumps(counts, indent=2) if as_json else dead_counts_table(counts))
            return
        letters = list(broker.dead_letters(group, _selection(**which), limit=limit))
    say(json.dumps([letter.as_dict() for letter in letters], indent=2) if as_json else letters_table(letters))


@dlq.command()
@click.argument("group")
@which_letters
@click.pass_context
def peek(ctx: click.Context, /, group: str, limit: int | None, **which: Any) -> None:
    """Show dead letters of GROUP in full, with their history: one, unless --limit or --id selects more."""
    from kombu_hake.cli.tables import letter_sheet

    with connected(ctx) as broker:
        most = limit or (None if which["ids"] else 1)
        sheets = [letter_sheet(letter) for letter in broker.dead_letters(group, _selection(**which), limit=most)]
    say("\n\n".join(sheets) or "No such dead letter.")


@dlq.command()
@click.argument("group")
@which_letters
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N a second.")
@click.option("--dry-run", is_flag=True, help="Only show which.")
@click.pass_context
def requeue(
    ctx: click.Context, /, group: str, limit: int | None, rate: float | None, dry_run: bool, **which: Any
) -> None:
    """Send dead letters back to GROUP, and to no other group. They keep their task ids.

    Each is removed from the dead-letter queue after AWS has accepted it in the queue of the group.
    """
    with connected(ctx) as broker:
        if dry_run:
            _show(broker, group, _selection(**which), limit, "would be sent back")
            return
        outcome = broker.requeue(group, _selection(**which), limit=limit, rate=rate, on_progress=_progress("sent back"))
    _finish(outcome, "sent back", group)


@dlq.command()
@click.argument("group")
@which_letters
@click.option("-o", "--output", type=click.File("w"), default="-", help="Write to a file instead of standard output.")
@click.pass_context
def export(ctx: click.Context, /, group: str, limit: int | None, output: Any, **which: Any) -> None:
    """Write dead letters of GROUP as JSON, one per line. They stay in the queue."""

    count = 0
    with connected(ctx) as broker:
        for letter in broker.dead_letters(group, _selection(**which), limit=limit):
            output.write(json.dumps(letter.as_dict()) + "\n")
            count += 1
    note(f"{_letters(count)} of group {group} written.")


@dlq.command()
@click.argument("group")
@which_letters
@click.option("--all", "everything", is_flag=True, help="Delete all: needed without any other selection.")
@click.option("--dry-run", is_flag=True, help="Only show which.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.pass_context
def purge(
    ctx: click.Context, /, group: str, limit: int | None, everything: bool, dry_run: bool, force: bool, **which: Any
) -> None:
    """Delete dead letters of GROUP permanently."""
    says_which = any(value for name, value in which.items() if name != "undelivered")
    if not everything and not says_which and limit is None:
        raise click.UsageError("Say which (--task, --exception, --older-than, --id, …), or --all.")
    with connected(ctx) as broker:
        if dry_run:
            _show(broker, group, _selection(**which), limit, "would be removed")
            return
        if not force:
            click.confirm(f"Delete dead letters of group {group} permanently?", abort=True)
        outcome = broker.purge_dead_letters(group, _selection(**which), limit=limit, on_progress=_progress("removed"))
    _finish(outcome, "removed", group)


def _selection(
    task: str | None,
    exception: str | None,
    older_than: float | None,
    newer_than: float | None,
    ids: tuple[str, ...],
    undelivered: bool,
) -> Selection:
    from kombu_hake.admin import Selection

    return Selection(task, exception, older_than, newer_than, ids, undelivered)


def _show(broker: Admin, group: str, selection: Selection, limit: int | None, what: str) -> None:
    from kombu_hake.cli.tables import letters_table

    letters = list(broker.dead_letters(group, selection, limit=limit))
    say(letters_table(letters))
    note(f"{_letters(len(letters))} of group {group} {what}.")


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _progress(done: str) -> Any:
    """A line with a counter, on a terminal."""

    def on_progress(outcome: Outcome) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{outcome.done} {done}", nl=False, err=True)

    return on_progress


def _finish(outcome: Outcome, done: str, group: str) -> None:
    if sys.stderr.isatty():
        click.echo("\r", nl=False, err=True)
    for line in [*outcome.failures, *outcome.notes]:
        note(line)
    say(f"{_letters(outcome.done)} of group {group} {done}.")
    if outcome.failures:
        raise click.exceptions.Exit(1)
