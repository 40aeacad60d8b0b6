"""Every way in which a pattern can be written as globs says what the pattern says."""

import re
from itertools import product

import pytest
import sns_model
from amqp_model import amqp_topic_match

from kombu_hake.amqp import globs
from kombu_hake.amqp.globs import Candidate, combine, key_candidates, pattern_candidates, spell

KEYS = [".".join(words) for length in range(6) for words in product("abc", repeat=length)]
SPELLED = {key: spell(key) for key in KEYS}


def passed_by(candidate: Candidate) -> set[str]:
    found: set[str] = set()
    for name, glob in candidate.globs:
        expression = re.compile(".*".join(map(re.escape, glob.split("*"))))
        found |= {key for key, spelled in SPELLED.items() if name in spelled and expression.fullmatch(spelled[name])}
    return found


@pytest.mark.parametrize("length", range(5))
def test_exact_candidates_say_what_the_pattern_says_and_others_say_no_less(length: int) -> None:
    for words in product("*#ab", repeat=length):
        pattern = ".".join(words)
        wanted = {key for key in KEYS if amqp_topic_match(pattern, key)}
        candidates = pattern_candidates(pattern)
        if candidates is None:
            assert wanted == set(KEYS)
        for candidate in candidates or []:
            passed = passed_by(candidate)
            assert passed == wanted if candidate.exact else passed > wanted, (pattern, candidate)


def test_most_patterns_have_an_exact_candidate() -> None:
    patterns = [".".join(words) for words in product("*#ab", repeat=4)]
    inexact = [p for p in patterns if not any(c.exact for c in pattern_candidates(p) or [Candidate(())])]
    # A bounded number of words between two words that may be anywhere: nothing that SNS offers says that.
    assert inexact == []
    assert not any(candidate.exact for candidate in pattern_candidates("#.a.*.b.#") or [])


def test_a_glob_that_a_prefix_covers_is_left_out() -> None:
    policy, exact = combine([key_candidates("order.eu"), pattern_candidates("order.#") or []], wildcards=True)
    assert policy == {"rk": ["order", {"prefix": "order."}]}
    assert exact


def test_a_key_of_two_words_or_less_has_no_tail() -> None:
    assert spell("") == {"rk": "%", "words": "|0"}
    assert spell("a.b") == {"rk": "a.b", "words": "|1.a.2|2.b.1|2"}
    assert spell("a.b.c") == {"rk": "a.b.c", "words": "|1.a.3|2.b.2|3.c.1|3", "tail": "2.b.2|3.c.1|3"}


@pytest.mark.parametrize(
    "pattern",
    [
        "#.a.#.b.#.c.#.a.#",  # too many ways to be written over the routing key
        "a.#.*.b.#.*.c.#.*.a.#",  # too many wildcards
        "#.a.#.*.b.#",  # so many words between two that may be anywhere
        "#.b.*.a.*.#",
    ],
)
@pytest.mark.parametrize("wildcards", [True, False])
def test_patterns_beyond_the_limits_let_more_pass_and_never_less(pattern: str, wildcards: bool) -> None:
    policy, exact = combine([pattern_candidates(pattern) or []], wildcards=wildcards)
    assert sns_model.faults(policy, wildcards=wildcards) == []
    wanted = {key for key in KEYS if amqp_topic_match(pattern, key)}
    passed = {key for key in KEYS if sns_model.passes(policy, SPELLED[key])}
    assert passed == wanted if exact else passed >= wanted


def test_more_values_than_a_policy_holds_means_no_filter() -> None:
    assert combine([key_candidates(f"key-{i}") for i in range(151)], wildcards=True) == (None, False)


def test_too_many_patterns_without_a_fixed_end_mean_no_filter() -> None:
    assert combine([pattern_candidates(f"#.a{i}.#") or [] for i in range(10)], wildcards=True) == (None, False)


def test_long_routing_keys_are_not_kept() -> None:
    before = globs._spell.cache_info().currsize
    assert spell("x" * 100_000)["rk"] == "x" * 100_000
    assert globs._spell.cache_info().currsize == before
