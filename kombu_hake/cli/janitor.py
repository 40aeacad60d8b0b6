"""``celery -A shop hake janitor``: find abandoned temporary queues, and remove them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kombu_hake.cli.tools import confirmed, connected, note, say

if TYPE_CHECKING:
    from kombu_hake.admin import Admin, Found, Report

__all__ = ["janitor"]

#: A longer wait between two steps is reported.
_LONG_S = 5.0


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--unproven", is_flag=True, help="Also remove queues that only their tags call temporary; asks first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_context
def janitor(ctx: click.Context, dry_run: bool, unproven: bool, as_json: bool) -> None:
    """Remove abandoned temporary queues and their subscriptions.

    Checks all queues of the namespace, and each one that seems abandoned twice, some minutes apart. Workers do the same
    from time to time.

    Tags can be written by anyone who may tag the queue. A queue that is temporary only by its tags is listed as
    unproven and kept, unless you give --unproven and confirm.
    """
    from kombu_hake.admin import Report
    from kombu_hake.cli.tables import temporaries_table

    report = Report()
    with connected(ctx) as broker:
        try:
            _run(broker, report, dry_run, approve=_confirm if unproven else _refuse)
        finally:  # what was done so far, if a right is missing
            found: dict[str, Any] = {
                "queues": [one.as_dict() for one in report.queues], "subscriptions": report.subscriptions
            }  # fmt: skip
            say(json.dumps(found, indent=2) if as_json else temporaries_table(report, is_dry=dry_run))


def _run(broker: Admin, report: Report, dry_run: bool, approve: Callable[[list[Found]], bool]) -> None:
    for wait_s in broker.remove_abandoned(report, dry_run=dry_run, approve=approve):
        if wait_s > _LONG_S:
            orphans = sum(1 for found in report.queues if found.state == "orphan")
            note(f"{orphans} seem to be abandoned. They are checked again in {wait_s:.0f} s, and then removed.")
        _sleep(wait_s)


def _refuse(unproven: list[Found]) -> bool:
    note(f"{len(unproven)} are not proved to be temporary, and are kept: check them, and remove them with --unproven.")
    return False


def _confirm(unproven: list[Found]) -> bool:
    text = "Only their tags call these queues temporary. They would be deleted with the messages in them:"
    return confirmed(text, [found.name for found in unproven])


def _sleep(seconds: float) -> None:
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(1) from None
