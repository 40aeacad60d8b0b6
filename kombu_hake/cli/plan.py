"""``celery -A shop hake plan`` and ``apply``: show how AWS differs from what the app declares, and change it."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from kombu_hake.cli.tools import confirmed, connected, note, say

if TYPE_CHECKING:
    from kombu_hake.admin import Applied, Plan, Undeclared

__all__ = ["apply", "plan", "plan_lines"]

_DIFFERS, _FAILED = 2, 1
#: Value of ``--prune`` without one.
_ASK = "?"
_LOSES = " This may lose messages."
_SIGNS = {"create": "+", "change": "~", "delete": "-"}


@click.command()
@click.option("--prune", is_flag=True, help="Also count what is no longer declared as changes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
@click.pass_context
def plan(ctx: click.Context, prune: bool, as_json: bool) -> None:
    """Show what `apply` would change, and why. Only reads.

    Ends with exit code 0 if AWS has all that the app declares, 2 if something differs, and 1 if that cannot be told.
    """
    with connected(ctx) as broker:
        found = broker.plan()
    say(json.dumps(found.as_dict(), indent=2) if as_json else plan_lines(found))
    if found.changes or (prune and found.undeclared):
        raise click.exceptions.Exit(_DIFFERS)
    if found.unknown or (prune and found.notes):
        raise click.exceptions.Exit(_FAILED)


@click.command()
@click.option("--prune", is_flag=False, flag_value=_ASK, metavar="[GLOB]",
              help="Also delete what is no longer declared, after confirmation; only names that match.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Prune without asking; needs a GLOB.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document; progress goes to standard error.")
@click.pass_context
def apply(ctx: click.Context, prune: str | None, yes: bool, as_json: bool) -> None:
    """Create or update what the app declares: queues, topics, subscriptions, policies, attributes and tags.

    Safe while workers run, and does nothing where nothing differs. Attributes and tags that are declared and were
    changed elsewhere are reset; what is not declared stays.
    """
    if yes and prune is None:
        raise click.UsageError("--yes is for --prune 'GLOB'; apply asks nothing without --prune.")
    if yes and prune == _ASK:
        raise click.UsageError(
            "Other apps may use this namespace, so --yes needs the names to delete: --prune 'shop-*' --yes."
        )

    def approved(found: list[Undeclared]) -> list[Undeclared]:
        if prune is None:
            return []
        wanted = [one for one in found if prune == _ASK or fnmatchcase(one.name, prune)]
        return wanted if wanted and (yes or _confirms(wanted)) else []

    with connected(ctx) as broker:
        done = broker.apply(prune=approved, on_progress=note if as_json else say)
    if as_json:
        say(json.dumps(done.as_dict(), indent=2))
    else:
        say(_summary(done))
    if done.failures or done.remaining.changes or done.remaining.unknown:
        raise click.exceptions.Exit(_FAILED)


def _confirms(found: list[Undeclared]) -> bool:
    text = "These are in this namespace and not declared by this app. They would be deleted:"
    return confirmed(text, map(_undeclared, found))


def plan_lines(found: Plan) -> str:
    """A plan as `plan` prints it."""
    lines = [
        f"{_SIGNS[one.action]} {one.what} {one.name}: {one.reason}{_LOSES if one.is_destructive else ''}"
        for one in found.changes
    ]
    lines += [f"? {text}" for text in found.unknown]
    lines += _over_quota(found)
    lines += [f"  not declared: {_undeclared(one)}" for one in found.undeclared]
    lines += [f"  {text}" for text in found.notes]
    if found.undeclared:
        is_one = len(found.undeclared) == 1
        lines.append(f"{_count(len(found.undeclared), 'thing')} {'is' if is_one else 'are'} not declared: see --prune.")
    if found.changes:
        lines.append(f"{_count(len(found.changes), 'change')} to apply.")
    elif not found.unknown:
        lines.append(_nothing(found))
    return "\n".join(lines)


def _over_quota(found: Plan) -> list[str]:
    return [f"  over quota: {one.what} {one.name}: {one.reason}" for one in found.over_quota]


def _nothing(found: Plan) -> str:
    but = ", as far as its quotas allow" if found.over_quota else ""
    return f"Nothing to apply: AWS has all that the app declares{but}."


def _undeclared(one: Undeclared) -> str:
    holds = "" if one.messages is None else f" It holds {_count(one.messages, 'message')}."
    return f"{one.what} {one.name}: {one.reason}{holds}"


def _summary(done: Applied) -> str:
    lines = [f"! {text}" for text in done.failures]
    lines += [f"? {text}" for text in done.remaining.unknown]
    lines += [f"still differs: {one.what} {one.name}: {one.reason}" for one in done.remaining.changes]
    lines += _over_quota(done.remaining)
    lines += [f"not declared, kept: {_undeclared(one)}" for one in done.remaining.undeclared]
    if done.changes or done.removed:
        deleted = _count(len(done.removed), "thing") if done.removed else "nothing"
        lines.append(f"{_count(len(done.changes), 'change')} made, {deleted} deleted.")
    elif not done.failures and not done.remaining.changes and not done.remaining.unknown:
        lines.append(_nothing(done.remaining))
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
