"""Whether one filter policy passes everything that another one passes, as far as that can be proved. Pure.

A policy is a disjunction of branches (``$or``), each a conjunction of attributes, each a disjunction of values. One
covers another if each branch of the other implies a branch of it. What cannot be proved counts as not covered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kombu_hake.amqp import matches_wildcard, read_object

__all__ = ["covers", "has_all"]

#: Comparing costs the product of the numbers of branches. SNS takes at most 150 combinations in a policy.
_MAX_BRANCHES = 300
_Branch = dict[str, list[Any]]


def covers(wide: str | None, narrow: str | None) -> bool:
    """Return True if the filter policy *wide* passes every message that *narrow* passes.

    Args:
        wide, narrow: JSON texts; None and ``{}`` are no filter, which passes everything.
    Returns:
        False also where it cannot be proved, as for texts that can't be read.
    """
    try:
        first, second = _branches(wide), _branches(narrow)
    except (ValueError, TypeError, AttributeError):
        return False
    return all(any(_implies(one, other) for other in first) for one in second)


def has_all(wide: str | None, narrow: str | None) -> bool:
    """Return True if the filter policy *wide* has every condition of *narrow* in the same words: it was made of both.

    Stricter than :func:`covers`: a wider value, or no filter at all, is no evidence that *narrow* was part of it.
    """
    try:
        first, second = _branches(wide), _branches(narrow)
    except (ValueError, TypeError, AttributeError):
        return False
    return all(any(_has_values(other, one) for other in first) for one in second)


def _has_values(wide: _Branch, narrow: _Branch) -> bool:
    return set(wide) == set(narrow) and all(
        any(_is_same(one, value) for one in wide[name]) for name in narrow for value in narrow[name]
    )


def _branches(text: str | None) -> list[_Branch]:
    policy = read_object(text)
    members = policy.pop("$or", [{}])
    if not isinstance(members, list) or len(members) > _MAX_BRANCHES:
        raise ValueError("$or is no list of branches")
    branches = [{**policy, **member} for member in members]
    if any(not isinstance(values, list) for branch in branches for values in branch.values()):
        raise ValueError("the values of an attribute are no list")
    if any("$or" in branch or set(policy) & set(member) for branch, member in zip(branches, members, strict=True)):
        raise ValueError("an attribute occurs twice")
    return branches


def _implies(narrow: _Branch, wide: _Branch) -> bool:
    """Return True if each condition of *wide* follows from the condition of *narrow* on the same attribute."""
    return all(name in narrow and _all_covered(narrow[name], values) for name, values in wide.items())


def _all_covered(values: Iterable[Any], by: list[Any]) -> bool:
    return all(any(_value_covers(wide, narrow) for wide in by) for narrow in values)


def _value_covers(wide: Any, narrow: Any) -> bool:
    if _is_same(wide, narrow):
        return True
    if wide == {"exists": True}:
        return bool(narrow != {"exists": False})
    glob, text = _glob(wide), _glob(narrow)
    if glob is None or text is None or "*" not in glob:
        return False
    # "*" in *text* is any run of characters. Each part of *glob* between stars has to occur within one part of *text*,
    # so a star that stands for itself proves it: what matches the glob as a text matches it for every run.
    return matches_wildcard(glob, text)


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _glob(value: Any) -> str | None:
    """A value as text with ``*`` for any run of characters; None for other operators."""
    if isinstance(value, str):
        return None if "*" in value else value
    if not isinstance(value, dict) or len(value) != 1:
        return None
    [(operator, operand)] = value.items()
    if not isinstance(operand, str) or ("*" in operand and operator != "wildcard"):
        return None
    return {"prefix": f"{operand}*", "suffix": f"*{operand}", "wildcard": operand}.get(operator)
