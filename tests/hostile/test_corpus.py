"""The messages are distinct, many, and such that AWS accepts them."""

import re

from hostile.corpus import CONTROL, EVENTS, MARK, Hostile, corpus, selection

SNS_MAX_BYTES = SQS_MAX_BYTES = 256 * 1024
#: What SQS accepts in a body.
LEGAL = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+\\Z")


def size_bytes(message: Hostile) -> int:
    attributes = sum(len(f"{name}String{value}".encode()) for name, value in message.attributes.items())
    return len(message.text.encode()) + attributes


def test_at_least_300_distinct_messages() -> None:
    assert len({one.name for one in corpus()}) == len(corpus()) >= 300
    assert len({(one.text, one.to, tuple(one.attributes.items())) for one in corpus()}) >= 300


def test_aws_accepts_each_of_them() -> None:
    for one in corpus():
        assert LEGAL.match(one.text), one.name
        assert size_bytes(one) <= SNS_MAX_BYTES, (one.name, size_bytes(one))
        assert len(one.attributes) <= 10, one.name
        assert all(LEGAL.match(value) for value in one.attributes.values()), one.name


def test_only_control_and_events_may_vanish() -> None:
    assert {one.to for one in corpus() if one.may_vanish} == {CONTROL, EVENTS}


def test_a_copy_has_another_id() -> None:
    for one in corpus():
        assert MARK not in one.copy("x").text


def test_a_selection_has_every_group() -> None:
    groups = {one.name.partition("/")[0].partition("-")[0] for one in corpus()}
    chosen = selection(80)
    assert {one.name.partition("/")[0].partition("-")[0] for one in chosen} == groups
    assert 60 <= len(chosen) <= 100
