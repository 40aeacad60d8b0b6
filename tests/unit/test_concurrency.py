"""One caller a key at a time; caches that forget; pauses that grow."""

import gc
import threading
import weakref

import pytest
from fakes import FakeClock, eventually
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.aws.concurrency import Once, SharedParts, SingleFlight, TtlCache, backoff_s


def test_callers_of_one_key_go_one_after_another() -> None:
    flights = SingleFlight()
    entered = threading.Event()

    def second() -> None:
        with flights("key"):
            entered.set()

    thread = threading.Thread(target=second)
    with flights("key"):
        thread.start()
        eventually(lambda: len(flights._flights["key"][1]) == 2)
        assert not entered.wait(0.02)
    assert entered.wait(10.0)
    thread.join()


def test_callers_of_other_keys_do_not_wait() -> None:
    flights = SingleFlight()
    entered = threading.Event()

    def work() -> None:
        with flights("b"):
            entered.set()

    with flights("a"):
        thread = threading.Thread(target=work)
        thread.start()
        assert entered.wait(10.0)
    thread.join()


def test_the_caller_may_enter_again() -> None:
    flights = SingleFlight()
    with flights("key"), flights("key"):
        pass


def test_a_flight_that_fails_lets_the_next_one_go() -> None:
    flights = SingleFlight()
    with pytest.raises(KeyError), flights("key"):
        raise KeyError
    entered = threading.Event()

    def work() -> None:
        with flights("key"):
            entered.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10.0)
    thread.join()


def test_nothing_is_kept_of_keys_that_are_done_with() -> None:
    flights = SingleFlight()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with flights("key"):
            inside.set()
            assert leave.wait(10.0)

    def second() -> None:
        with flights("key"):
            pass

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(10.0)
    threads += [threading.Thread(target=second) for _ in range(5)]
    for thread in threads[1:]:
        thread.start()
    leave.set()
    for thread in threads:
        thread.join(10.0)
    assert not flights._flights


def test_a_value_is_computed_once_while_it_is_fresh() -> None:
    clock = FakeClock()
    cache: TtlCache[str, int] = TtlCache(60.0, clock)
    values = iter(range(9))
    assert cache.get("k", lambda: next(values)) == 0
    clock.advance(59.9)
    assert cache.get("k", lambda: next(values)) == 0
    clock.advance(0.2)
    assert cache.get("k", lambda: next(values)) == 1
    assert cache.get("other", lambda: next(values)) == 2


def test_a_value_may_be_none() -> None:
    cache: TtlCache[str, None] = TtlCache(60.0, FakeClock())
    calls: list[int] = []
    for _ in range(3):
        cache.get("k", lambda: calls.append(1))
    assert calls == [1]


def test_a_forgotten_value_is_computed_anew() -> None:
    cache: TtlCache[str, int] = TtlCache(60.0, FakeClock())
    assert cache.get("k", lambda: 1) == 1
    cache.forget("k")
    cache.forget("nothing")
    assert cache.get("k", lambda: 2) == 2


def test_a_computation_that_fails_leaves_nothing() -> None:
    cache: TtlCache[str, float] = TtlCache(60.0, FakeClock())
    with pytest.raises(ZeroDivisionError):
        cache.get("k", lambda: 1 / 0)
    assert cache.get("k", lambda: 2.0) == 2.0


@given(st.integers(0, 10_000))
def test_pauses_grow_up_to_a_limit(attempt: int) -> None:
    assert 0.1 <= backoff_s(attempt) <= 5.0
    assert backoff_s(attempt + 1) >= min(5.0, 0.2 * 2 ** min(attempt + 1, 9)) / 2
    assert backoff_s(attempt, first_s=0.5, most_s=1.0) <= 1.0


# --- SharedParts


class Part:
    """Something that is shared."""


def test_equal_keys_share_a_value() -> None:
    parts: SharedParts[str, Part] = SharedParts(most=2)
    assert parts.get("a", Part) is parts.get("a", Part)
    assert parts.get("a", Part) is not parts.get("b", Part)


def test_the_latest_values_are_kept_though_nobody_uses_them() -> None:
    parts: SharedParts[str, Part] = SharedParts(most=2)
    first, second = weakref.ref(parts.get("a", Part)), weakref.ref(parts.get("b", Part))
    parts.get("a", Part)
    parts.get("c", Part)
    gc.collect()
    assert first() is parts.get("a", Part)
    assert second() is None


def test_a_value_that_is_used_is_shared_however_many_came_after_it() -> None:
    parts: SharedParts[str, Part] = SharedParts(most=2)
    used = parts.get("a", Part)
    for number in range(10):
        parts.get(str(number), Part)
    assert parts.get("a", Part) is used


def test_once_tells_a_key_that_is_new() -> None:
    is_new = Once()
    assert [is_new(key) for key in "aabab"] == [True, False, True, False, False]


@given(st.lists(st.integers(0, 9)))
def test_once_remembers_the_latest_few(keys: list[int]) -> None:
    is_new = Once(3)
    latest: list[int] = []
    for key in keys:
        assert is_new(key) == (key not in latest)
        latest = [*(other for other in latest if other != key), key][-3:]
        assert len(is_new) == len(latest)


def test_a_cache_evicts_the_value_that_was_computed_longest_ago() -> None:
    clock = FakeClock()
    cache: TtlCache[int, str] = TtlCache(10.0, clock, most=2)
    for key in (1, 2, 3):
        cache.get(key, lambda: "old")
    assert len(cache) == 2
    assert [cache.get(key, lambda: "new") for key in (3, 2, 1)] == ["old", "old", "new"]


def test_a_cache_of_many_keys_stays_small() -> None:
    cache: TtlCache[int, None] = TtlCache(10.0)
    for key in range(10_000):
        cache.get(key, lambda: None)
    assert len(cache) <= 1_000
