"""What is stored of an enqueued task: it survives JSON, and anything else that is found there is not taken for it."""

import copy
import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.contrib.django.records import Failure, Record, celery_priority, record_id, valid_id

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.builds(
    Record,
    path=st.text(),
    backend=st.text(),
    args=st.lists(JSON, max_size=3),
    kwargs=st.dictionaries(st.text(), JSON, max_size=3),
    priority=st.integers(-100, 100),
    queue_name=st.text(),
    run_after=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    enqueued_at=st.none() | st.datetimes(),
    started_at=st.none() | st.datetimes(),
    last_attempted_at=st.none() | st.datetimes(),
    worker_ids=st.lists(st.text(), max_size=3).map(tuple),
    failures=st.lists(st.builds(Failure, st.integers(), st.text(), st.text()), max_size=3).map(tuple),
)
RECORD = Record("orders.tasks.send", "default", [7], {"by": "mail"}, enqueued_at=NOW)


@given(RECORDS)
def test_a_record_survives_json(record: Record) -> None:
    assert Record.from_stored(json.loads(json.dumps(record.stored()))) == record


@given(JSON)
def test_other_values_are_no_record(value: Any) -> None:
    assert Record.from_stored(value) is None


@given(st.data())
def test_a_record_with_a_damaged_field_is_none_or_still_a_record(data: st.DataObject) -> None:
    stored = copy.deepcopy(RECORD.stored())
    stored[data.draw(st.sampled_from(sorted(stored)))] = data.draw(JSON)
    found = Record.from_stored(stored)
    assert found is None or Record.from_stored(json.loads(json.dumps(found.stored()))) == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", None), ("args", {}), ("args", "text"), ("kwargs", []), ("kwargs", {1: 2}), ("priority", "9"),
        ("priority", 101), ("priority", True), ("backend", 1), ("queue_name", None), ("worker_ids", [1]),
        ("worker_ids", "me"), ("failures", [{}]), ("failures", ["x"]), ("failures", None),
    ],
)  # fmt: skip
def test_a_field_of_another_type_makes_it_no_record(field: str, value: Any) -> None:
    assert Record.from_stored(RECORD.stored() | {field: value}) is None


def test_a_message_carries_what_the_worker_cannot_know() -> None:
    header = RECORD.header()
    assert set(header) == {"backend", "priority", "queue_name", "run_after", "enqueued_at"}
    assert Record.from_header(json.loads(json.dumps(header)), RECORD.path, [7], {"by": "mail"}, "other") == RECORD


@pytest.mark.parametrize("header", [None, "text", {}, RECORD.header() | {"priority": "1e9"}, {"backend": "default"}])
def test_a_message_without_a_sound_header_gets_the_defaults(header: Any) -> None:
    found = Record.from_header(header, "orders.tasks.send", [7], {}, "other")
    assert found == Record("orders.tasks.send", "other", [7], {})


def test_each_attempt_has_its_worker_and_its_error() -> None:
    first = RECORD.started("one", NOW).failed(KeyError("x"), "trace")
    assert first.has_failure_of_last_attempt
    later = NOW.replace(hour=9)
    second = first.started("two", later)
    assert not second.has_failure_of_last_attempt
    assert (second.worker_ids, second.started_at, second.last_attempted_at) == (("one", "two"), NOW, later)
    assert second.failures == (Failure(1, "builtins.KeyError", "trace"),)


@pytest.mark.parametrize(
    ("priority", "highest", "expected"),
    [(-100, 9, 0), (0, 9, 4), (100, 9, 9), (0, 10, 5), (1, 255, 129), (100, 1, 1), (0, 0, None), (100, 0, None)],
)
def test_priorities_of_django_become_those_of_the_queue(priority: int, highest: int, expected: int | None) -> None:
    assert celery_priority(priority, highest) == expected


@given(st.integers(-100, 99), st.integers(1, 255))
def test_a_higher_priority_is_never_lower_in_the_queue(priority: int, highest: int) -> None:
    lower, higher = celery_priority(priority, highest), celery_priority(priority + 1, highest)
    assert lower is not None
    assert higher is not None
    assert 0 <= lower <= higher <= highest


@pytest.mark.parametrize("result_id", ["", "7", "../x", "0" * 36, "A" * 8, None, 7, "c0a8" * 9, f"{'x' * 500}"])
def test_only_ids_that_were_given_out_are_looked_up(result_id: Any) -> None:
    assert not valid_id(result_id)


def test_the_id_of_a_record_is_no_id_of_a_task() -> None:
    result_id = "0e4b1c5e-7c3a-4f0e-9d53-0a4b6c1d2e3f"
    assert valid_id(result_id)
    assert not valid_id(record_id(result_id))
