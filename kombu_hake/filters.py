"""Whether a filter policy that somebody else wrote passes everything that a queue's bindings ask for. Pure.

Only what can be shown counts. A "no" may be wrong for a policy of a shape that is not known here; a "yes" never is: the
consumer drops what passes beyond the bindings, and nobody brings back what did not pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from itertools import product
from typing import Any

from kombu_hake.bindings import Binding
from kombu_hake.globs import RK, encode, split_words
from kombu_hake.priorities import PRIORITY_ATTRIBUTE
from kombu_hake.routing import TASK_ATTRIBUTE, compile_filter

__all__ = ["passes_at_least", "without_conditions"]

Policy = dict[str, Any]


def without_conditions(policy_text: str) -> tuple[str, bool]:
    """A filter policy without what it says of priorities and tasks, and whether it lets only some priorities pass.

    Neither is for the bindings to say. Text that is no JSON object comes back as it is.
    """
    try:
        found = json.loads(policy_text or "{}")
    except (ValueError, RecursionError):
        return policy_text, False
    if not isinstance(found, dict):
        return policy_text, False
    is_shared = found.pop(PRIORITY_ATTRIBUTE, None) is not None
    found.pop(TASK_ATTRIBUTE, None)
    return json.dumps(found), is_shared


def passes_at_least(policy_text: str, bindings: Collection[Binding]) -> bool:
    """Whether a filter policy certainly passes everything that these bindings of one queue and exchange ask for.

    Args:
        policy_text: JSON of a ``FilterPolicy`` on message attributes; ``{}`` passes everything.
    """
    try:
        found = json.loads(policy_text or "{}")
    except (ValueError, RecursionError):
        return False
    if not found:
        return True
    if not isinstance(found, dict):
        return False
    if any(_covers(found, compile_filter(bindings, wildcards=wildcards).policy) for wildcards in (True, False)):
        return True
    return all(any(_covers(found, wanted) for wanted in _policies_of(binding)) for binding in bindings)


def _policies_of(binding: Binding) -> Iterator[Policy | None]:
    """Policies that each pass what the binding asks for, and may pass more."""
    for wildcards in (True, False):
        yield compile_filter([binding], wildcards=wildcards).policy
    if binding.exchange_type == "direct":
        yield {RK: [encode(binding.routing_key)]}
    elif binding.exchange_type == "topic":
        words = split_words(binding.routing_key)
        wild = next((i for i, word in enumerate(words) if word in ("*", "#")), len(words))
        # "a.#" matches "a" too.
        head = ".".join(map(encode, words[:wild])) + ("." if wild < len(words) and words[wild] == "*" else "")
        if wild == len(words):
            yield {RK: [head]}
        elif wild:
            yield {RK: [{"prefix": head}]}


def _covers(found: Policy, wanted: Policy | None) -> bool:
    """Whether *found* certainly passes every message that *wanted* passes."""
    if wanted is None:
        return False
    return all(any(_passes(branch, case) for branch in _branches(found)) for case in _cases(wanted))


def _branches(policy: Policy) -> list[Policy]:
    """The policy as alternatives, each a conjunction of keys."""
    members = policy.get("$or")
    if not isinstance(members, list):
        return [policy]
    rest = {key: values for key, values in policy.items() if key != "$or"}
    return [{**rest, **member} for member in members if isinstance(member, dict)]


def _cases(policy: Policy) -> Iterator[dict[str, Any]]:
    """Every combination of one value a key; a message that passes is a message of one of them."""
    for branch in _branches(policy):
        for values in product(*branch.values()):
            yield dict(zip(branch, values, strict=True))


def _passes(branch: Policy, case: dict[str, Any]) -> bool:
    return all(
        isinstance(values, list) and key in case and any(_holds(value, case[key]) for value in values)
        for key, values in branch.items()
    )


def _holds(found: Any, wanted: Any) -> bool:
    """Whether one value of a filter policy passes whatever another one passes."""
    if found == wanted:
        return True
    if not isinstance(found, dict) or len(found) != 1:
        return False
    [(operator, operand)] = found.items()
    if operator == "exists":
        return operand is True and wanted != {"exists": False}
    start, end, exact = _known_ends(wanted)
    if operator == "prefix":
        return start.startswith(operand)
    if operator == "suffix":
        return end.endswith(operand)
    if exact is None:
        return operator == "wildcard" and operand.endswith("*") and _is_prefix(operand, start)
    if operator == "wildcard":
        return re.fullmatch(".*".join(map(re.escape, operand.split("*"))), exact, re.DOTALL) is not None
    if operator == "equals-ignore-case":
        return bool(exact.lower() == operand.lower())
    if operator == "anything-but":
        others = operand if isinstance(operand, list) else [operand]
        return all(isinstance(other, str) for other in others) and exact not in others
    return False


def _is_prefix(wildcard: str, start: str) -> bool:
    return wildcard.count("*") == 1 and start.startswith(wildcard[:-1])


def _known_ends(wanted: Any) -> tuple[str, str, str | None]:
    """How every text that a value passes starts and ends, and the text itself where there is only one."""
    if isinstance(wanted, str):
        return wanted, wanted, wanted
    if isinstance(wanted, dict) and len(wanted) == 1:
        [(operator, operand)] = wanted.items()
        if operator == "prefix":
            return operand, "", None
        if operator == "suffix":
            return "", operand, None
        if operator == "wildcard":
            return operand.partition("*")[0], operand.rpartition("*")[2], None
    return "", "", None
