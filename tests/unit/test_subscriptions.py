"""A queue that gets priorities while it is in use: nothing is lost while AWS acts on the policies of its levels."""

from types import SimpleNamespace
from typing import Any

import pytest

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.topology import subscriptions
from kombu_hake.topology.subscriptions import Subscriptions, _Level

NOW_S = 10_000
MAIN, LEVEL = (_Level(name, QueueUrl(f"https://sqs/{name}")) for name in ("jobs", "jobs-1"))


def waited(monkeypatch: pytest.MonkeyPatch, *, main_s: int, level_s: int, is_local: bool = False) -> list[float]:
    """How long it waits, s, for policies that were written at these times."""
    slept: list[float] = []
    monkeypatch.setattr(subscriptions, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: 0.0))
    changed = {MAIN.url: main_s * 1000, LEVEL.url: level_s * 1000}
    parts: list[Any] = [
        SimpleNamespace(now_ms=lambda: NOW_S * 1000),
        SimpleNamespace(is_local=is_local),
        SimpleNamespace(changed_ms=changed.__getitem__),
        SimpleNamespace(),
        SimpleNamespace(),
    ]
    Subscriptions(*parts)._await_policies(MAIN, [LEVEL])
    return slept


def test_waits_for_what_is_left_of_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, main_s=100, level_s=NOW_S - 20) == [40.0]


def test_queue_that_is_as_new_as_its_levels_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, main_s=NOW_S - 2, level_s=NOW_S - 1) == []


def test_levels_that_have_been_there_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, main_s=100, level_s=NOW_S - 61) == []


def test_emulator_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, main_s=100, level_s=NOW_S, is_local=True) == []
