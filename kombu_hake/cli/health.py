"""``celery -A shop hake health``: what the health file of a worker on this machine says. Does not connect."""

from __future__ import annotations

import json

import click

from kombu_hake.cli.tools import say
from kombu_hake.quoting import escaped

__all__ = ["health"]


@click.command()
@click.argument("path", required=False)
@click.option("-n", "--hostname", metavar="NAME", help="Name of the worker, as given to it: w1@%h.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a line.")
@click.pass_context
def health(ctx: click.Context, path: str | None, hostname: str | None, as_json: bool) -> None:
    """Read a worker's health file, and tell whether the worker is healthy. Default: the path in health_file.

    Exit codes: 0 healthy, 2 unhealthy, 1 no such file. A probe that runs often is cheaper with
    'python -m kombu_hake.health PATH', which does not load the app.
    """
    from kombu_hake.admin import health as read
    from kombu_hake.exceptions import HakeError

    try:
        found = read(ctx.obj.app, path, node=hostname)
    except FileNotFoundError as exc:
        raise click.ClickException(
            f"There is no file {escaped(str(exc.filename))}: the worker has not started, has stopped, or has another "
            "name."
        ) from exc
    except (HakeError, OSError, ValueError) as exc:
        raise click.ClickException(escaped(str(exc), None, keep="\n")) from exc
    say(json.dumps(found.as_dict(), indent=2) if as_json else str(found))
    if not found.is_healthy:
        ctx.exit(2)
