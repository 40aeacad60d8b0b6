"""Shared by the commands: connecting, errors as one line, common options."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kombu_hake.quoting import escaped

if TYPE_CHECKING:
    from kombu_hake.admin import Admin

__all__ = ["ROLES", "SPAN", "again", "confirmed", "connected", "note", "say", "watch_option", "which_letters"]

#: As :data:`kombu_hake.admin.export.rights.ROLES`, whose import would make ``--help`` slow.
ROLES = ("producer", "consumer", "declarer", "operator")
_NOTE_CHARS = 2_000


def say(text: str) -> None:
    """Print to standard output, with everything escaped that a terminal interprets, except newlines."""
    click.echo(escaped(text, None, keep="\n"))


def note(text: str) -> None:
    """Print one line of notes to standard error."""
    click.echo(escaped(text, _NOTE_CHARS), err=True)


def confirmed(text: str, things: Iterable[str]) -> bool:
    """Ask whether to delete things, one a line after a text."""
    note(text)
    for thing in things:
        note(f"  {thing}")
    return click.confirm("Delete them?", err=True)


@contextmanager
def connected(ctx: click.Context, *, offline: bool = False) -> Iterator[Admin]:
    """Connect to the app's broker; an error ends the command with one line and exit code 1.

    Args:
        offline: Make no request before a method needs one.
    """
    from kombu_hake.admin import connect
    from kombu_hake.exceptions import HakeError

    try:
        with connect(ctx.obj.app, offline=offline) as broker:
            yield broker
    except HakeError as exc:
        raise click.ClickException(escaped(str(exc), None, keep="\n")) from exc


class _Span(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A length of time: ``90``, ``90s``, ``15m``, ``2h``, ``3d``."""

    name = "time"
    _units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}  # noqa: RUF012 - never changed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a length of time: write 90s, 15m, 2h or 3d.", param, ctx)
        return float(match[1]) * self._units[match[2]]


SPAN = _Span()


watch_option = click.option(
    "--watch", is_flag=False, flag_value=2.0, type=click.FloatRange(min=0.1), metavar="[SECONDS]",
    help="Repeat every two seconds, or as many as given, until Ctrl-C.",
)  # fmt: skip


def again(watch: float | None, *, clear: bool) -> Iterator[None]:
    """Run the body of a loop once; with ``--watch``, again and again on a cleared screen until Ctrl-C."""
    while True:
        if watch and clear:
            click.clear()
        yield
        if not watch:
            return
        try:
            time.sleep(watch)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(0) from None


def which_letters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that select dead letters, and limit their number."""
    options = (
        click.option("--task", metavar="GLOB", help="The task's name matches."),
        click.option("--exception", metavar="GLOB", help="The exception's class matches, or its text contains this."),
        click.option("--older-than", type=SPAN, help="Dead for longer than this: 90s, 15m, 2h, 3d."),
        click.option("--newer-than", type=SPAN, help="Dead for less than this."),
        click.option("--id", "ids", multiple=True, metavar="ID", help="A message, task or event id; may be repeated."),
        click.option("--undelivered", is_flag=True, help="Use messages that SNS could not deliver instead."),
        click.option("--limit", type=click.IntRange(min=1), help="At most this many."),
    )
    for option in reversed(options):
        command = option(command)
    return command
