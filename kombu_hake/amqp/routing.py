"""Route messages to queues: AMQP's rules, and as much of them as an SNS filter policy can express. Pure.

The rules are applied twice. SNS filters deliveries to a queue, by the attributes that :func:`message_attributes` sets
on every message; a consumer checks what it received with :func:`matches`. The filter saves deliveries; the check makes
routing correct: a filter may pass more than the bindings match (AWS cannot express them, or still applies an older
filter), but never less.

A publisher may know only the name of an exchange. So the attributes of the routing key serve direct, topic and fanout
exchanges alike. Header values become attributes only if the publisher knows that it publishes to a headers exchange.
Otherwise it also leaves out the mark ``headers``, and every filter on headers passes messages without that mark.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from kombu_hake.amqp import limits
from kombu_hake.amqp.bindings import Argument, Binding
from kombu_hake.amqp.documents import read_object
from kombu_hake.amqp.globs import RK, combine, encode, key_candidates, pattern_candidates, spell, split_words
from kombu_hake.amqp.priorities import PRIORITY_ATTRIBUTE

__all__ = [
    "Filter",
    "canonical_json",
    "compile_filter",
    "filter_json",
    "matches",
    "message_attributes",
    "narrowed",
    "without_priorities",
]

#: The mark of a message whose header values are all in its attributes.
HEADERS_MARK = "headers"
#: What the name of a header's attribute starts with.
HEADER_PREFIX = "h-"
#: Header values that a message carries as attributes, at most; with more of them it carries none.
MAX_HEADER_ATTRIBUTES = 6

# Headers that Celery sets on every task. They are useless for routing, and would leave no room for the user's own.
# "task" is not among them, because routing on the name is useful. (celery/app/amqp.py, as_task_v2)
_CELERY_HEADERS = frozenset(
    {"argsrepr", "eta", "expires", "group", "group_index", "id", "ignore_result", "kwargsrepr", "lang", "origin"}
    | {"parent_id", "replaced_task_nesting", "retries", "root_id", "shadow", "stamped_headers", "stamps", "timelimit"}
)
_MAX_TOKEN_CHARS = 200
#: A routing key of AMQP has 255 bytes, and so at most 256 words.
_MAX_WORDS = 1_000
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class Filter:
    """The filter policy of one queue's subscription to one exchange."""

    #: In SNS's form, to be written with :func:`filter_json`; None: no filter policy, everything passes.
    policy: dict[str, Any] | None
    #: Whether it passes exactly what the bindings match. If not, the consumer's check drops the rest.
    exact: bool


# --- the rules -----------------------------------------------------------------------------------------------------


def matches(binding: Binding, routing_key: str, headers: Mapping[str, object] | None = None) -> bool:
    """Return True if a binding matches a message, by the rules of AMQP 0-9-1 as RabbitMQ implements them.

    Args:
        headers: The message's headers; used only for a headers exchange.

    Words of a routing key are separated by dots. The empty key has no word: ``#`` matches it, ``*`` does not. A
    word may be empty (``a.`` has two words), and ``*`` matches an empty word.

    Source:
        RabbitMQ, ``rabbit_db_topic_exchange.erl`` and ``rabbit_exchange_type_headers.erl``.
    """
    if binding.exchange_type == "fanout":
        return True
    if binding.exchange_type == "direct":
        return binding.routing_key == routing_key
    if binding.exchange_type == "topic":
        pattern, words = _pattern(binding.routing_key), split_words(routing_key)
        if len(words) > _MAX_WORDS:
            # AMQP has no such key. Matching could take minutes; if in doubt, deliver.
            return "#" in pattern
        return _words_match(pattern, words)
    is_any, conditions = _conditions(binding)
    present = headers or {}
    judged = (
        name in present and (wanted is None or _is_same(wanted, present[name])) for name, wanted in conditions.items()
    )
    return any(judged) if is_any else all(judged)


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> tuple[str, ...]:
    return tuple(split_words(pattern))


def _words_match(pattern: tuple[str, ...], words: list[str]) -> bool:
    """Glob matching with words for characters; on a mismatch the last ``#`` takes another word."""
    if sum(1 for one in pattern if one != "#") > len(words):
        return False
    at, word = 0, 0
    last_hash, taken = -1, 0
    while word < len(words):
        if at < len(pattern) and pattern[at] == "#":
            last_hash, taken = at, word
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", words[word]):
            at += 1
            word += 1
        elif last_hash >= 0:
            taken += 1
            at, word = last_hash + 1, taken
        else:
            return False
    return all(rest == "#" for rest in pattern[at:])


def _conditions(binding: Binding) -> tuple[bool, dict[str, Argument]]:
    """Whether one match is enough, and header names to values; None means that the header exists, with any value.

    Names that start with ``x-`` count only with ``all-with-x`` and ``any-with-x``. As in RabbitMQ, ``x-match`` may be
    left out, "all" of nothing matches everything, and "any" of nothing matches nothing.
    """
    mode = dict(binding.arguments).get("x-match", "all")
    with_x = mode in ("all-with-x", "any-with-x")
    conditions = {
        name: value for name, value in binding.arguments if name != "x-match" and (with_x or not name.startswith("x-"))
    }
    return mode in ("any", "any-with-x"), conditions


def _is_same(wanted: Argument, value: object) -> bool:
    # Erlang's ==: numbers compare across int and float, but a boolean is not a number, nor a string one.
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, (int, float)):
        return isinstance(value, (int, float)) and wanted == value
    return isinstance(value, str) and wanted == value


# --- attributes of a message -----------------------------------------------------------------------------------------


def message_attributes(routing_key: str, headers: Mapping[str, object] | None = None) -> dict[str, str]:
    """The SNS attributes, of type String, that a message needs for our filters.

    Args:
        headers: The message's headers if the exchange is known to be a headers exchange, else None. If there are more
            headers than fit, the message carries none, and passes all filters.
    Returns:
        One to eight names; the values are printable ASCII and never empty.
    """
    if headers is not None:
        found = {name: value for name, value in headers.items() if _is_filterable(name)}
        if len(found) <= MAX_HEADER_ATTRIBUTES:
            attributes = {_attribute_name(name): _token(value) for name, value in found.items()}
            return {RK: spell(routing_key)[RK], HEADERS_MARK: "all", **attributes}
    return dict(spell(routing_key))


def _is_filterable(name: str) -> bool:
    """Return True if a header becomes an attribute. Publishers and filters must agree on it."""
    return name not in _CELERY_HEADERS and not name.startswith("x-")


def _attribute_name(header: str) -> str:
    """A one-to-one encoding within the characters of attribute names: no dot at the end, nor two in a row."""
    name = HEADER_PREFIX + _UNSAFE_IN_NAME.sub(lambda match: f".{ord(match[0]):x}-", header)
    if len(name) <= limits.ATTRIBUTE_NAME_MAX_CHARS:
        return name
    return f"{HEADER_PREFIX}.{_digest(header)}"


def _token(value: object) -> str:
    """A header value as text that is equal for equal values only, as far as bindings can tell values apart."""
    if isinstance(value, bool):
        return f"b:{value}"
    if isinstance(value, (int, float)):
        is_whole = isinstance(value, float) and value.is_integer()
        token = f"n:{int(value) if is_whole else value}"
    elif isinstance(value, str):
        token = f"s:{encode(value)}"
    else:
        return "other"  # None, a list, a table, bytes: the header exists, but equals no value that a binding can have
    return token if len(token) <= _MAX_TOKEN_CHARS else f"#:{_digest(token)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- filter policies -------------------------------------------------------------------------------------------------


def compile_filter(bindings: Iterable[Binding], *, wildcards: bool = True, unfiltered: bool = False) -> Filter:
    """All bindings of one queue to one exchange as one SNS filter policy, within the limits of SNS.

    Args:
        bindings: Of one queue to one exchange. An empty set gives a policy that none of our messages passes.
        wildcards: False where there is no ``wildcard`` operator, or where SNS found a policy too complex.
        unfiltered: Pass everything from the exchange, whatever the bindings are.
    Returns:
        The same result for the same bindings in any order. It never passes less than the bindings match.
    Source:
        DG-SNS "subscription filter policies", "filter policy constraints".
    """
    bindings = list(bindings)
    types = {binding.exchange_type for binding in bindings}
    if unfiltered:
        return Filter(None, exact=False)
    if not bindings:
        return Filter({RK: [{"exists": False}]}, exact=True)
    if "fanout" in types:
        return Filter(None, exact=True)
    if "headers" in types:
        # An exchange with two types is an error of its declarers, but must not make any of them lose messages.
        return _headers_filter(bindings, wildcards) if types == {"headers"} else Filter(None, exact=False)
    choices = []
    for binding in bindings:
        is_direct = binding.exchange_type == "direct"
        candidates = key_candidates(binding.routing_key) if is_direct else pattern_candidates(binding.routing_key)
        if candidates is None:
            return Filter(None, exact=True)
        choices.append(candidates)
    policy, exact = combine(choices, wildcards=wildcards)
    return Filter(policy, exact)


def narrowed(base: Filter, conditions: Mapping[str, Sequence[Any]]) -> Filter | None:
    """Add attributes that must all match to the filter; None if SNS would find that too complex.

    Args:
        conditions: Attribute name to the values of which it must have one, in the form of a filter policy.
    """
    policy = {**(base.policy or {}), **conditions}
    members: list[dict[str, Any]] = policy.get("$or") or [{}]
    keys = {name for member in members for name in member} | {name for name in policy if name != "$or"}
    of_members = sum(prod(len(values) for values in member.values()) for member in members)
    combinations = of_members * prod(len(values) for name, values in policy.items() if name != "$or")
    if len(keys) > limits.SNS_FILTER_MAX_KEYS or combinations > limits.SNS_FILTER_MAX_COMBINATIONS:
        return None
    return Filter(policy, base.exact)


def filter_json(wanted: Filter) -> str:
    """The policy as canonical JSON text, ``{}`` for none: equal filters give equal text."""
    return json.dumps(wanted.policy or {}, sort_keys=True, separators=(",", ":"))


def without_priorities(policy_text: str) -> tuple[str, bool]:
    """A filter policy as canonical JSON without its condition on priorities, and whether it had one.

    The priorities of a level do not follow from the bindings. Text that is not a JSON object is returned unchanged.
    """
    try:
        found = read_object(policy_text)
    except ValueError:
        return policy_text, False
    is_shared = found.pop(PRIORITY_ATTRIBUTE, None) is not None
    return canonical_json(found), is_shared


def canonical_json(policy: Mapping[str, Any]) -> str:
    """A filter policy as JSON text that does not depend on the order of its keys and values."""

    def ordered(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: ordered(value) for key, value in part.items()}
        if isinstance(part, list):
            return sorted(map(ordered, part), key=lambda item: json.dumps(item, sort_keys=True))
        return part

    return json.dumps(ordered(policy), sort_keys=True, separators=(",", ":"))


#: Attribute name to the value it must have; None: the attribute must exist.
_Branch = dict[str, "str | None"]


def _headers_filter(bindings: Iterable[Binding], wildcards: bool) -> Filter:
    """Any of the branches, each a conjunction of header values, or a message that carries no header values.

    Not exact because of the latter, unless everything passes anyway.
    """
    branches: list[_Branch] = []
    for binding in bindings:
        is_any, conditions = _conditions(binding)
        tokens = {
            _attribute_name(name): None if value is None else _token(value)
            for name, value in conditions.items()
            if _is_filterable(name)
        }
        if is_any and len(tokens) < len(conditions):
            return Filter(None, exact=False)
        if not is_any and not tokens:
            return Filter(None, exact=not conditions)
        branches += [{name: token} for name, token in tokens.items()] if is_any else [tokens]
    # One attribute is the mark. Leaving out the rarest headers makes a conjunction wider, but still correct.
    uses = Counter(name for branch in branches for name in branch)
    kept = sorted(uses, key=lambda name: (-uses[name], name))[: limits.SNS_FILTER_MAX_KEYS - 1]
    branches = [{name: token for name, token in branch.items() if name in kept} for branch in branches]
    if not all(branches):
        return Filter(None, exact=False)
    members = [*_members(branches), {HEADERS_MARK: [{"exists": False}]}]
    if len(members) == 1:
        return Filter(members[0], exact=False)
    return Filter({"$or": members} if _fits(members, wildcards) else None, exact=False)


def _fits(members: list[dict[str, list[Any]]], wildcards: bool) -> bool:
    """Return True if SNS would accept an ``$or`` of these; without wildcards by the strictest reading of the limits."""
    if wildcards:
        combinations = sum(prod(len(values) for values in member.values()) for member in members)
        return combinations <= limits.SNS_FILTER_MAX_COMBINATIONS
    sizes = [len(values) for member in members for values in member.values()]
    combinations = len(members) * prod(2 * size for size in sizes)
    return combinations <= limits.SNS_FILTER_MAX_COMBINATIONS and len(sizes) <= limits.SNS_FILTER_MAX_KEYS


def _members(branches: Iterable[_Branch]) -> list[dict[str, list[Any]]]:
    """The branches of ``$or``, sorted; branches on the same attribute are merged into one with several values."""
    single: dict[str, set[str | None]] = {}
    conjunctions: set[tuple[tuple[str, str | None], ...]] = set()
    for branch in branches:
        if len(branch) == 1:
            [(name, token)] = branch.items()
            single.setdefault(name, set()).add(token)
        else:
            conjunctions.add(tuple(sorted(branch.items())))
    members: list[dict[str, list[Any]]] = []
    for name, tokens in single.items():
        members.append({name: [{"exists": True}] if None in tokens else sorted(filter(None, tokens))})
    for conjunction in conjunctions:
        members.append({name: [{"exists": True} if token is None else token] for name, token in conjunction})
    return sorted(members, key=lambda member: json.dumps(member, sort_keys=True))
