"""What SNS does with a filter policy, as documented: which messages pass, and which policies it would take.

A model for tests: written from the Developer Guide ("subscription filter policies", "filter policy constraints"), in
terms of its own, so that it shares no mistake with the code that makes the policies.
``tests/emulator/test_filter_model.py`` compares it with an emulator.
"""

import json
import re
from typing import Any

RESERVED = {"anything-but", "prefix", "suffix", "equals-ignore-case", "numeric", "exists", "cidr", "wildcard"}


def passes(policy: dict[str, Any] | None, attributes: dict[str, str]) -> bool:
    """Whether a message with these String attributes is delivered to a subscription with this filter policy."""
    if policy is None:
        return True
    return all(
        any(passes(member, attributes) for member in values)
        if key == "$or" and is_or(values)
        else any(value_matches(value, key, attributes) for value in values)
        for key, values in policy.items()
    )


def is_or(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 1
        and all(isinstance(member, dict) and not RESERVED & set(member) for member in values)
    )


def value_matches(value: Any, key: str, attributes: dict[str, str]) -> bool:
    if isinstance(value, str):
        return attributes.get(key) == value
    [(operator, operand)] = value.items()
    if operator == "exists":
        return (key in attributes) if operand else (key not in attributes and bool(attributes))
    if key not in attributes:
        return False
    actual = attributes[key]
    if operator == "prefix":
        return actual.startswith(operand)
    if operator == "suffix":
        return actual.endswith(operand)
    if operator == "wildcard":
        return re.fullmatch(".*".join(map(re.escape, operand.split("*"))), actual, re.DOTALL) is not None
    raise AssertionError(f"the model has no operator {operator!r}")


def faults(policy: dict[str, Any] | None, *, wildcards: bool = True) -> list[str]:
    """Why SNS would refuse this policy; nothing when it would take it."""
    if policy is None:
        return []
    members = policy.get("$or", [policy])
    found = []
    if "$or" in policy and (len(policy) > 1 or not is_or(members)):
        found.append("$or is not alone, or is not the operator")
    if len({key for member in members for key in member}) > 5:
        found.append("more than five keys")
    if len(json.dumps(policy).encode()) > 256 * 1024:
        found.append("more than 256 KB")
    lists = [(key, values) for member in members for key, values in member.items()]
    for key, values in lists:
        if not isinstance(values, list) or not values:
            found.append(f"{key}: not an array, or an empty one")
        found += [f"{key}: {fault}" for value in values for fault in value_faults(value, wildcards)]
    if combinations(members) > 150:
        found.append("too complex")
    if wildcard_points(lists) > 100:
        found.append("too many wildcards")
    if not wildcards and strict_combinations(members) > 150:
        found.append("too complex for an emulator")
    return found


def value_faults(value: Any, wildcards: bool) -> list[str]:
    if isinstance(value, str):
        return text_faults(value)
    if not isinstance(value, dict) or len(value) != 1:
        return ["not one operator"]
    [(operator, operand)] = value.items()
    if operator == "exists":
        return [] if isinstance(operand, bool) else ["exists takes true or false"]
    if operator not in {"prefix", "suffix", "wildcard"} or (operator == "wildcard" and not wildcards):
        return [f"no operator {operator}"]
    if operator == "wildcard" and not 1 <= operand.count("*") <= 3:
        return ["a pattern with none or with more than three wildcards"]
    if operator == "wildcard" and "**" in operand:
        return ["two wildcards in a row"]
    return text_faults(operand)


def text_faults(text: str) -> list[str]:
    """Attribute values and filter values are matched as written only where nothing needs escaping."""
    found = [] if text else ["empty"]
    return found if re.fullmatch(r'[!#-\[\]-~]*', text) else [*found, f"needs escaping: {text!r}"]


def combinations(members: list[dict[str, Any]]) -> int:
    """The number of values multiplied over the keys; the members of "$or" add up."""
    total = 0
    for member in members:
        size = 1
        for values in member.values():
            size *= len(values)
        total += size
    return total


def strict_combinations(members: list[dict[str, Any]]) -> int:
    """As moto counts: everything multiplied, twice over for what is inside "$or"."""
    depth = 1 if len(members) == 1 else 2
    size = len(members)
    for member in members:
        for values in member.values():
            size *= len(values) * depth
    return size


def wildcard_points(lists: list[tuple[str, Any]]) -> int:
    """One point for a pattern with one wildcard, else three a wildcard; their sum times their number, for each key."""
    fields: dict[str, list[int]] = {}
    for key, values in lists:
        for value in values:
            if isinstance(value, dict) and "wildcard" in value:
                stars = value["wildcard"].count("*")
                fields.setdefault(key, []).append(1 if stars == 1 else 3 * stars)
    return sum(sum(points) * len(points) for points in fields.values())
