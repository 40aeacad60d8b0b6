"""``celery -A shop hake …``: prints what :mod:`kombu_hake.admin` finds. Celery loads it by its entry point.

Celery imports this module at the start of each of its commands, so its commands import :mod:`kombu_hake.admin` late.
"""

from __future__ import annotations

from typing import Any

import click

from kombu_hake.cli.check import check
from kombu_hake.cli.cost import cost
from kombu_hake.cli.dlq import dlq
from kombu_hake.cli.export import export
from kombu_hake.cli.graph import graph
from kombu_hake.cli.health import health
from kombu_hake.cli.janitor import janitor
from kombu_hake.cli.plan import apply, plan
from kombu_hake.cli.queues import groups, queues

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


for _command in (check, dlq, cost, export, janitor, queues, health, plan, apply, groups, graph):
    hake.add_command(_command)
