"""What SNS does with a filter policy, as documented: which messages pass, and which policies it would take.

A model for tests: written from the Developer Guide ("subscription filter policies", "filter policy constraints"), in
terms of its own, so that it shares no mistake with the code that makes the policies.
``tests/emulator/test_filter_model.py`` compares it with an emulator.
"""

import ipaddress
import json
import operator as operators
import re
from typing import Any

COMPARISONS = {
    "=": operators.eq,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}
RESERVED = {"anything-but", "prefix", "suffix", "equals-ignore-case", "numeric", "exists", "cidr", "wildcard"}


def passes(policy: dict[str, Any] | None, attributes: dict[str, str], types: dict[str, str] | None = None) -> bool:
    """Whether a message with these attributes is delivered to a subscription with this filter policy.

    Args:
        types: Data types by name, where they are not ``String``. A ``Number`` is written as a text here, as in SQS.
    """
    if policy is None:
        return True
    shown = {name: _values(text, (types or {}).get(name, "String")) for name, text in attributes.items()}
    return _passes(policy, shown)


def passes_body(policy: dict[str, Any], body: str) -> bool:
    """As :func:`passes`, for the scope ``MessageBody``: the message must be a JSON object."""
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and _body_passes(policy, document)


def _body_passes(policy: dict[str, Any], document: Any) -> bool:
    if not isinstance(document, dict):
        return False
    return all(
        _body_passes(wanted, document.get(key))
        if isinstance(wanted, dict)
        else _passes({key: wanted}, {name: _listed(value) for name, value in document.items()})
        for key, wanted in policy.items()
    )


def _passes(policy: dict[str, Any], shown: dict[str, list[Any]]) -> bool:
    return all(
        any(_passes(member, shown) for member in values)
        if key == "$or" and is_or(values)
        else any(value_matches(value, key, shown) for value in values)
        for key, values in policy.items()
    )


def _values(text: str, data_type: str) -> list[Any]:
    """What an attribute offers to match: one value, or the elements of an array."""
    kind = data_type.partition(".")[0]
    if kind == "Number":
        try:
            return [float(text)]
        except ValueError:
            return []
    if data_type == "String.Array":
        try:
            return _listed(json.loads(text))
        except ValueError:
            return []
    return [text] if kind == "String" else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_or(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 1
        and all(isinstance(member, dict) and not RESERVED & set(member) for member in values)
    )


def value_matches(value: Any, key: str, shown: dict[str, list[Any]]) -> bool:
    if not isinstance(value, dict):
        return any(_is_same(actual, value) for actual in shown.get(key, []))
    [(operator, operand)] = value.items()
    if operator == "exists":
        return (key in shown) if operand else (key not in shown and bool(shown))
    if operator == "anything-but":
        # An attribute that is missing does not match; with an array, one element that differs is enough.
        return any(not _is_excluded(actual, operand) for actual in shown.get(key, []))
    return any(_operator_matches(operator, operand, actual) for actual in shown.get(key, []))


def _is_same(actual: Any, wanted: Any) -> bool:
    """JSON's kind of equality: 1 is 1.0, and true is not 1."""
    return isinstance(actual, bool) == isinstance(wanted, bool) and bool(actual == wanted)


def _is_excluded(actual: Any, operand: Any) -> bool:
    if isinstance(operand, dict):
        [(operator, part)] = operand.items()
        return any(_operator_matches(operator, one, actual) for one in _listed(part))
    return any(_is_same(actual, one) for one in _listed(operand))


def _operator_matches(operator: str, operand: Any, actual: Any) -> bool:
    if operator == "numeric":
        is_number = isinstance(actual, int | float) and not isinstance(actual, bool)
        return is_number and all(
            COMPARISONS[sign](actual, bound) for sign, bound in zip(operand[::2], operand[1::2], strict=True)
        )
    if not isinstance(actual, str):
        return False
    if operator == "prefix":
        return actual.startswith(operand)
    if operator == "suffix":
        return actual.endswith(operand)
    if operator == "equals-ignore-case":
        return actual.lower() == operand.lower()
    if operator == "wildcard":
        return re.fullmatch(".*".join(map(re.escape, operand.split("*"))), actual, re.DOTALL) is not None
    if operator == "cidr":
        return _is_in_network(actual, operand)
    raise AssertionError(f"the model has no operator {operator!r}")


def _is_in_network(actual: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(actual) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def faults(policy: dict[str, Any] | None, *, wildcards: bool = True) -> list[str]:
    """Why SNS would refuse this policy; nothing when it would take it."""
    if policy is None:
        return []
    members = policy.get("$or", [policy])
    found = []
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        return ["$or is not an array of objects"]
    if "$or" in policy and (len(policy) > 1 or not is_or(members)):
        found.append("$or is not alone, or is not the operator")
    if len({key for member in members for key in member}) > 5:
        found.append("more than five keys")
    if len(json.dumps(policy).encode()) > 256 * 1024:
        found.append("more than 256 KB")
    lists = [(key, values) for member in members for key, values in member.items()]
    if any(not isinstance(values, list) for _, values in lists):
        return [*found, "a value that is not an array"]
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
    if value is None or isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return number_faults(value)
    if not isinstance(value, dict) or len(value) != 1:
        return ["not one operator"]
    [(operator, operand)] = value.items()
    if operator == "exists":
        return [] if isinstance(operand, bool) else ["exists takes true or false"]
    if operator == "numeric":
        return numeric_faults(operand)
    if operator == "anything-but":
        return anything_but_faults(operand, wildcards)
    known = {"prefix", "suffix", "equals-ignore-case", "cidr", "wildcard"}
    if operator not in known or (operator == "wildcard" and not wildcards):
        return [f"no operator {operator}"]
    if not isinstance(operand, str):
        return [f"{operator} takes a text"]
    if operator == "wildcard" and not 1 <= operand.count("*") <= 3:
        return ["a pattern with none or with more than three wildcards"]
    if operator == "wildcard" and "**" in operand:
        return ["two wildcards in a row"]
    return text_faults(operand)


def number_faults(value: Any) -> list[str]:
    """SNS compares numbers from -10^9 to 10^9."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [] if is_number and abs(value) <= 1e9 else [f"not a number of SNS: {value!r}"]


def numeric_faults(operand: Any) -> list[str]:
    """One comparison, or a range: a lower bound and then an upper one."""
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        return ["numeric takes one comparison, or two for a range"]
    signs, bounds = operand[::2], operand[1::2]
    if not all(isinstance(sign, str) and sign in COMPARISONS for sign in signs):
        return ["numeric has a comparison that SNS does not know"]
    if len(signs) == 2 and not (signs[0].startswith(">") and signs[1].startswith("<")):
        return ["a range has a lower bound and then an upper one"]
    found = [fault for bound in bounds for fault in number_faults(bound)]
    if not found and len(bounds) == 2 and bounds[0] >= bounds[1]:
        return ["the lower bound of a range is below the upper one"]
    return found


def anything_but_faults(operand: Any, wildcards: bool) -> list[str]:
    if isinstance(operand, dict):
        [*names] = operand
        if names not in (["prefix"], ["wildcard"]):
            return [f"Unsupported anything-but pattern: {', '.join(map(str, names))}"]
        return value_faults(operand, wildcards)
    if not isinstance(operand, str | int | float | list) or operand == []:
        return ["anything-but takes values, or a prefix, or a wildcard"]
    values = operand if isinstance(operand, list) else [operand]
    return [fault for value in values if not isinstance(value, dict) for fault in value_faults(value, wildcards)]


def text_faults(text: str) -> list[str]:
    """Attribute values and filter values are matched as written only where nothing needs escaping."""
    found = [] if text else ["empty"]
    return found if re.fullmatch(r"[!#-\[\]-~]*", text) else [*found, f"needs escaping: {text!r}"]


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
