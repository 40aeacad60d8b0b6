"""Translate AMQP topic patterns to globs over message attributes, and globs to an SNS filter policy. Pure.

SNS has no notion of words: the ``*`` of its ``wildcard`` operator crosses dots, and there is no AND over one attribute.
So a publisher adds encodings of the routing key over which globs express AMQP patterns:

``rk``
    The routing key, percent-encoded: ``order.created.eu``. The empty key is ``%``, because SNS accepts no empty
    value. Expresses every pattern in which a ``*`` occurs only next to a ``#``, or not at all: ``a.b.#``, ``#.m.#``,
    ``a.#.*``.
``words``
    Each word between its position from the front and from the end, then the count: ``|1.order.3|2.created.2|3.eu.1|3``.
    One position fixes a word, both fix the length of the key: ``order.*`` is the prefix ``|1.order.2|``, ``*.b.#`` is
    ``*|2.b.*``, and ``a.*.c`` is ``|1.a.3|*|3.c.1|3``.
``tail``
    ``words`` from the second word on; only where there are three words or more. It turns patterns that start with a
    ``*`` into prefixes. A policy may have many prefixes, but a wildcard with two ``*`` costs six of its hundred points.

A word never contains ``.``, ``|``, ``*`` or ``%``: the first separates words, the others are encoded.

A *candidate* is a set of globs that together express one pattern: either exactly (*exact*), or passing some more keys.
Each pattern has a few candidates, on different attributes. A policy has one array of values for each attribute it uses;
more than one attribute requires ``$or``, whose cost AWS does not document clearly, so a policy with one attribute is
tried first. If nothing fits, the most expensive globs are widened step by step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, TypeAlias
from urllib.parse import quote

from kombu_hake.amqp import limits

__all__ = [
    "RK",
    "TAIL",
    "WORDS",
    "Candidate",
    "combine",
    "encode",
    "key_candidates",
    "pattern_candidates",
    "spell",
    "split_words",
]

RK = "rk"
WORDS = "words"
TAIL = "tail"

Policy: TypeAlias = "dict[str, Any]"
#: Attribute to globs: the content of a policy before it is written as JSON.
Branches: TypeAlias = "dict[str, frozenset[str]]"

#: Which attributes a policy may use, the simplest first.
_PLANS = ((RK,), (WORDS,), (RK, WORDS), (RK, WORDS, TAIL))
_EVERYTHING = "*"
_EMPTY_KEY = "%"
#: Longer routing keys are not cached: they may come from a message, and would waste memory.
_CACHED_CHARS = 256
_MAX_GLOBS = 8  # of one pattern; each "#" between words doubles the number
# Not encoded, in addition to letters, digits and "_.-~": harmless in a filter policy and common in routing keys.
_SAFE = "/:+=@#$,!()"


@dataclass(frozen=True)
class Candidate:
    """Globs, as (attribute, glob), that express a pattern exactly, or pass some more keys."""

    globs: tuple[tuple[str, str], ...]
    exact: bool = True

    def cost(self) -> tuple[int, int]:
        """Wildcard points and number of values: the fewer, the better."""
        return sum(_points(glob) for _, glob in self.globs), len(self.globs)


@dataclass(frozen=True)
class _Gap:
    """The gap between two words of a pattern: its minimum number of words, and whether it is open (a ``#``)."""

    least: int
    is_open: bool


# --- spelling ----------------------------------------------------------------------------------------------------


def split_words(text: str) -> list[str]:
    """The words of a routing key or pattern. The empty one has none, as in RabbitMQ: only ``#`` matches it."""
    return text.split(".") if text else []


def encode(text: str) -> str:
    """Percent-encode what SNS refuses in attributes (surrogates, control characters) or treats specially (``*"\\``).

    Encodes each character on its own, so that prefixes and suffixes remain so. The result has no ``|`` or ``*``.
    """
    return quote(text, safe=_SAFE, errors="surrogatepass")


def spell(routing_key: str) -> dict[str, str]:
    """The attributes of a message with this routing key. The caller must not change the result: it may be cached."""
    return _spell(routing_key) if len(routing_key) <= _CACHED_CHARS else _spell.__wrapped__(routing_key)


@lru_cache(maxsize=4096)
def _spell(routing_key: str) -> dict[str, str]:
    words = encode(routing_key).split(".") if routing_key else []
    count = len(words)
    tokens = [f"{i}.{word}.{count + 1 - i}|" for i, word in enumerate(words, 1)]
    attributes = {RK: encode(routing_key) or _EMPTY_KEY, WORDS: f"|{''.join(tokens)}{count}"}
    if count > 2:
        attributes[TAIL] = f"{''.join(tokens[1:])}{count}"
    return attributes


# --- patterns to globs -------------------------------------------------------------------------------------------


def key_candidates(routing_key: str) -> list[Candidate]:
    """For one literal key, as bound to a direct exchange."""
    spelled = spell(routing_key)
    return [Candidate(((name, spelled[name]),)) for name in (RK, WORDS)]


def pattern_candidates(pattern: str) -> list[Candidate] | None:
    """For one pattern of a topic exchange; at least one candidate. None: the pattern matches every key."""
    if "*" not in (words := split_words(pattern)) and "#" not in words:
        return key_candidates(pattern)
    literals, gaps = _parse(words)
    if not literals:
        return _wild_candidates(gaps[0])
    candidates = []
    if by_key := _key_globs(literals, gaps):
        candidates.append(Candidate(tuple((RK, glob) for glob in by_key)))
    glob, exact = _words_glob(literals, gaps)
    candidates.append(Candidate(((WORDS, glob),), exact))
    shortest = len(literals) + sum(gap.least for gap in gaps)
    is_open = any(gap.is_open for gap in gaps)
    if glob.startswith("*|2.") and (is_open or shortest > 2):
        tail = [(TAIL, glob[2:])]
        if shortest == 2:
            closed = [_Gap(gap.least, False) for gap in gaps]
            tail.append((WORDS, _words_glob(literals, closed)[0]))
        candidates.append(Candidate(tuple(tail), exact))
    return candidates


def _parse(words: Iterable[str]) -> tuple[list[str], list[_Gap]]:
    """Literal words, encoded, and the gaps before, between and after them: one gap more than words."""
    literals: list[str] = []
    gaps: list[_Gap] = []
    least, is_open = 0, False
    for word in words:
        if word == "#":
            is_open = True
        elif word == "*":
            least += 1
        else:
            literals.append(encode(word))
            gaps.append(_Gap(least, is_open))
            least, is_open = 0, False
    return literals, [*gaps, _Gap(least, is_open)]


def _wild_candidates(gap: _Gap) -> list[Candidate] | None:
    """For a pattern of only ``*`` and ``#``: an exact or a minimum number of words."""
    if not gap.is_open:
        return [Candidate(((WORDS, f"*|{gap.least}"),))]
    if gap.least == 0:
        return None
    if gap.least == 1:
        return [Candidate(((WORDS, "|1.*"),))]
    candidates = [Candidate(((WORDS, f"*|{gap.least}.*"),))]
    if gap.least == 2:
        candidates.append(Candidate(((TAIL, "2.*"), (WORDS, "*|2"))))
    return candidates


def _key_globs(literals: Sequence[str], gaps: Sequence[_Gap]) -> list[str]:
    """Exact globs over ``rk``; none if a bounded gap (a ``*`` without ``#``) requires counting words."""
    if any(gap.least and not gap.is_open for gap in gaps):
        return []
    choices: list[list[str]] = []
    for i, gap in enumerate(gaps):
        before, after = "." if i else "", "." if i < len(literals) else ""
        if gap.least:
            # An SNS "*" crosses dots: one for each required word also matches any further words.
            choices.append([before + ".".join("*" * gap.least) + after])
        else:
            nothing = "." if before and after else ""
            choices.append([nothing, f"{before}*{after}"] if gap.is_open else [nothing])
        if i < len(literals):
            choices.append([literals[i]])
    if prod(len(choice) for choice in choices) > _MAX_GLOBS:
        return []
    globs = ["".join(parts) for parts in product(*choices)]
    if any(glob.count("*") > limits.SNS_WILDCARDS_PER_PATTERN for glob in globs):
        return []
    # "" would stand for a key of one empty word, which does not exist.
    return [glob for glob in globs if glob]


def _words_glob(literals: Sequence[str], gaps: Sequence[_Gap]) -> tuple[str, bool]:
    """The glob over ``words``, and whether it is exact."""
    opens = [i for i, gap in enumerate(gaps) if gap.is_open]
    count = len(literals)
    if not opens:
        return _closed_glob(literals, gaps), True
    # Before the first open gap a word's position from the front is known, after the last one that from the end.
    front: dict[int, int] = {}
    end: dict[int, int] = {}
    position = 0
    for k in range(opens[0]):
        position = front[k] = position + gaps[k].least + 1
    position = 0
    for k in range(count - 1, opens[-1] - 1, -1):
        position = end[k] = position + gaps[k + 1].least + 1
    glob, exact = "", True
    for k, gap in enumerate(gaps):
        wild, precise = _gap_glob(k, gap, front, end, count)
        glob, exact = glob + wild, exact and precise
        if k in front:
            glob += f"|{front[k]}.{literals[k]}."
        elif k < count:
            glob += f".{literals[k]}." + (f"{end[k]}|" if k in end else "")
    return glob, exact


def _gap_glob(k: int, gap: _Gap, front: dict[int, int], end: dict[int, int], count: int) -> tuple[str, bool]:
    """The glob for the gap before word ``k``, and whether it is exact. ``k == count``: the gap after the last word.

    A gap that requires words means "some token with this position is in between"; the dots in the words on both sides
    keep them from matching as that token.
    """
    if not gap.is_open:
        if k == 0:
            return ("" if front[0] == 1 else "*"), True
        return "*", k in front or k == count or k - 1 in end
    if gap.least == 0:
        return "*", True
    if k == 0:
        return ("|1.*" if gap.least == 1 else f"*|{gap.least}.*"), True
    if k - 1 in front:
        return f"*|{front[k - 1] + gap.least}.*", True
    if k == count:
        return f"*.{gap.least}|*", True
    if k in end:
        return f"*.{end[k] + gap.least}|*", True
    return "*", False


def _closed_glob(literals: Sequence[str], gaps: Sequence[_Gap]) -> str:
    """The glob over ``words`` of a pattern without ``#``: the length is known, so each word has both positions."""
    length = len(literals) + sum(gap.least for gap in gaps)
    glob, position = "" if gaps[0].least else "|", 0
    for literal, gap in zip(literals, gaps, strict=False):
        position += gap.least + 1
        glob += ("*|" if gap.least else "") + f"{position}.{literal}.{length + 1 - position}|"
    return glob + ("*" if gaps[-1].least else str(length))


# --- globs to a policy -------------------------------------------------------------------------------------------


def combine(choices: Iterable[Sequence[Candidate]], *, wildcards: bool) -> tuple[Policy | None, bool]:
    """One filter policy that passes every key that any of the patterns matches.

    Args:
        choices: The candidates of each pattern.
        wildcards: Whether there is a ``wildcard`` operator. Without it the limits are also interpreted more strictly,
            as by the emulators that lack it.
    Returns:
        The policy, or None if everything has to pass; and whether it is exact.
    """
    prepared = [_prepare(candidates, wildcards) for candidates in choices]
    for plan in _PLANS:
        picked = [_pick(candidates, plan) for candidates in prepared]
        chosen = [candidate for candidate in picked if candidate is not None]
        branches = _merge(chosen)
        if len(chosen) == len(picked) and _fits(branches, wildcards):
            return _policy(branches), all(candidate.exact for candidate in chosen)
    return _policy(_widen(branches, wildcards)), False


def _prepare(candidates: Sequence[Candidate], wildcards: bool) -> list[Candidate]:
    """The candidates to choose from, with each glob reduced to what one glob may be."""
    prepared = []
    for candidate in candidates:
        globs = tuple((name, _within(glob, wildcards)) for name, glob in candidate.globs)
        prepared.append(Candidate(globs, candidate.exact and globs == candidate.globs))
    exact = [candidate for candidate in prepared if candidate.exact]
    narrow = [c for c in prepared if all(glob != _EVERYTHING for _, glob in c.globs)]
    return exact or narrow or prepared


def _within(glob: str, wildcards: bool) -> str:
    """Repeated :func:`_wider` in one step: a pattern may have thousands of stars."""
    if wildcards and glob.count("*") > limits.SNS_WILDCARDS_PER_PATTERN:
        head, *middle, tail = glob.split("*")
        longest = sorted(range(len(middle)), key=lambda i: (len(middle[i]), i))[1 - limits.SNS_WILDCARDS_PER_PATTERN :]
        return "*".join([head, *(middle[i] for i in sorted(longest)), tail])
    if not wildcards and _points(glob):
        head, *_, tail = glob.split("*")
        glob = f"{head}*{tail}"
        return _wider(glob) if _points(glob) else glob
    return glob


def _pick(candidates: Sequence[Candidate], plan: Sequence[str]) -> Candidate | None:
    usable = [candidate for candidate in candidates if all(name in plan for name, _ in candidate.globs)]
    return min(usable, key=Candidate.cost, default=None)


def _merge(candidates: Iterable[Candidate]) -> Branches:
    found: dict[str, set[str]] = {}
    for candidate in candidates:
        for name, glob in candidate.globs:
            found.setdefault(name, set()).add(glob)
    return {name: _without_covered(globs) for name, globs in sorted(found.items())}


def _without_covered(globs: Iterable[str]) -> frozenset[str]:
    """Remove globs that are covered by a prefix or a suffix among them."""
    prefixes = [glob[:-1] for glob in globs if glob.find("*") == len(glob) - 1]
    suffixes = [glob[1:] for glob in globs if glob.rfind("*") == 0]

    def is_covered(glob: str) -> bool:
        head, _, rest = glob.partition("*")
        tail = rest.rpartition("*")[2] if "*" in glob else glob
        return any(head.startswith(p) and glob != f"{p}*" for p in prefixes) or any(
            tail.endswith(s) and glob != f"*{s}" for s in suffixes
        )

    return frozenset(glob for glob in globs if not is_covered(glob))


def _fits(branches: Branches, wildcards: bool) -> bool:
    """Return True if SNS would accept this policy."""
    sizes = [len(globs) for globs in branches.values()]
    # The members of "$or" add up; moto multiplies all, and with the depth as well.
    combinations = sum(sizes) if wildcards or len(sizes) == 1 else len(sizes) * prod(2 * size for size in sizes)
    points = 0
    for globs in branches.values():
        dear = [_points(glob) for glob in globs if _points(glob)]
        points += sum(dear) * len(dear)
    return (
        combinations <= limits.SNS_FILTER_MAX_COMBINATIONS
        and points <= limits.SNS_WILDCARD_MAX_POINTS
        and len(json.dumps(_policy(branches))) <= limits.SNS_FILTER_MAX_BYTES
    )


def _widen(branches: Branches, wildcards: bool) -> Branches:
    """Widen globs until the policy fits, the most expensive first."""
    while not _fits(branches, wildcards):
        name, glob = max(
            ((name, glob) for name, globs in branches.items() for glob in globs),
            key=lambda item: (_points(item[1]), item),
        )
        wider = _wider(glob) if _points(glob) else _EVERYTHING
        branches = {**branches, name: _without_covered(branches[name] - {glob} | {wider})}
        if wider == _EVERYTHING:
            break
    return branches


def _wider(glob: str) -> str:
    """The next wider glob for one with wildcard points: with fewer ``*``, finally a prefix, a suffix or ``*``."""
    head, *middle, tail = glob.split("*")
    if middle:
        middle.remove(min(middle, key=len))
        return "*".join([head, *middle, tail])
    return f"{head}*" if len(head) >= len(tail) else f"*{tail}"


def _points(glob: str) -> int:
    """Wildcard points, as SNS counts them; a prefix, a suffix and a plain value cost none."""
    stars = glob.count("*")
    if stars < 2:
        return int(0 < glob.find("*") < len(glob) - 1)
    return 3 * stars


def _policy(branches: Branches) -> Policy | None:
    if any(_EVERYTHING in globs for globs in branches.values()):
        return None
    written = [{name: [_value(glob) for glob in sorted(globs)]} for name, globs in sorted(branches.items())]
    return written[0] if len(written) == 1 else {"$or": written}


def _value(glob: str) -> str | dict[str, str]:
    if "*" not in glob:
        return glob
    if _points(glob):
        return {"wildcard": glob}
    return {"prefix": glob[:-1]} if glob.endswith("*") else {"suffix": glob[1:]}
