"""``celery -A shop hake check``: find out why messages do not arrive."""

from __future__ import annotations

import json

import click

from kombu_hake.cli.tools import ROLES, SPAN, connected, note, say

__all__ = ["check"]

_FOUND = 2


@click.command()
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Role whose rights to check; may be "
              "repeated. Default: those of the app's own processes.")  # fmt: skip
@click.option("--probe", is_flag=True, help="Also prove that SNS delivers, with a temporary topic and queues.")
@click.option("--wait", "wait_s", type=SPAN, help="How long to wait for the probe: 90s, 15m. Default: two minutes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.pass_context
def check(ctx: click.Context, roles: tuple[str, ...], probe: bool, wait_s: float | None, as_json: bool) -> None:
    """Find out why messages do not arrive, or soon may not.

    Compares what the app declares with what AWS shows, and changes nothing. Each finding says how to fix it.
    A probe publishes to no topic, and receives from no queue, that others use.

    Exits with 0 if there is no error and no warning, with 2 if there is, and with 1 if the check failed.
    """
    from kombu_hake.cli.tables import check_sheet

    if wait_s is not None and not probe:
        raise click.UsageError("--wait is the time that a probe waits: add --probe.")
    with connected(ctx, offline=True) as broker:
        report = broker.check(roles=roles, probe=probe, wait_s=wait_s, on_progress=note, app_name=_app_name(ctx))
    say(json.dumps(report.as_dict(), indent=2) if as_json else check_sheet(report))
    if not report.is_clean:
        raise click.exceptions.Exit(_FOUND)


def _app_name(ctx: click.Context) -> str | None:
    """The value of Celery's ``-A``; None without, and where Celery keeps only the app (before 5.7)."""
    given = ctx.find_root().params.get("app")
    return given if isinstance(given, str) else None
