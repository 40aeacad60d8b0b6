"""What the tags of a temporary queue say: to whom it belongs, and when it may go."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp import ownership
from kombu_hake.amqp.bindings import MAX_BINDING_TAGS
from kombu_hake.amqp.limits import SQS_MAX_TAGS, TAG_KEY_MAX_CHARS, TAG_VALUE_MAX_CHARS
from kombu_hake.amqp.ownership import Kind, read
from kombu_hake.topology.spec import QueueSpec

NOW = 1_000_000
EXCLUSIVE, AUTO_DELETE, EXPIRES = Kind(exclusive=True), Kind(auto_delete=True), Kind(expires_s=3600)
BOTH = Kind(auto_delete=True, expires_s=3600)


def used(at: float = NOW) -> dict[str, str]:
    return ownership.used_tag(at)


def user(name: str = "a", at: float = NOW, limit: float = 600, *, left: bool = False) -> dict[str, str]:
    return ownership.user_tag(name, at, limit, "host/1", has_left=left)


@pytest.mark.parametrize(
    ("kind", "tags", "due"),
    [
        (EXCLUSIVE, user(), NOW + 600),
        (EXCLUSIVE, user(at=NOW - 600) | user("b"), NOW + 600),
        (EXCLUSIVE, used(), None),  # nobody can say who owned it
        (AUTO_DELETE, user(), NOW + 600),
        (AUTO_DELETE, user(left=True), NOW + 600),
        (AUTO_DELETE, used(), None),  # it waits for its first consumer
        (AUTO_DELETE, used(NOW + 9999) | user(), NOW + 600),  # declaring is no consuming
        (EXPIRES, used(), NOW + 3600),
        (EXPIRES, used() | user(), NOW + 600 + 3600),
        (EXPIRES, used(NOW + 1000) | user(), NOW + 1000 + 3600),
        (EXPIRES, {}, None),
        (BOTH, used(), NOW + 3600),
        (BOTH, used() | user(), NOW + 600),  # the earlier rule
        (Kind(auto_delete=True, expires_s=600), user(at=NOW - 500) | used(NOW - 1500), NOW + 100),
    ],
)
def test_when_a_queue_may_go(kind: Kind, tags: dict[str, str], due: int | None) -> None:
    found = read(ownership.kind_tag(kind) | tags)
    assert found is not None
    assert found.due_s() == due


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"hake:made-by": "kombu_hake 1"},
        {"hake:temporary": "no"},
        {"hake:temporary": ""},
        {"hake:temporary": "exclusively"},
        {"hake:temporary": "expires=soon"},
        {"Hake:temporary": "exclusive"},
        user(at=1),
    ],
)
def test_what_does_not_say_that_it_is_temporary_is_not(tags: dict[str, str]) -> None:
    assert read(tags) is None


@pytest.mark.parametrize("value", ["", "soon", "1 2 3", "-1 600 x", "1795401200", "\N{ARABIC-INDIC DIGIT ONE} 600 x"])
def test_a_damaged_promise_is_none(value: str) -> None:
    found = read(ownership.kind_tag(EXCLUSIVE) | {"hake:user:a": value} | user("b"))
    assert found is not None
    assert [one.name for one in found.users] == (["a", "b"] if value == "1 2 3" else ["b"])


def test_who_left_is_not_alive_and_who_is_late_is_not_either() -> None:
    found = read(ownership.kind_tag(AUTO_DELETE) | user("alive") | user("left", left=True) | user("late", at=NOW - 601))
    assert found is not None
    assert [one.name for one in found.live_users(NOW)] == ["alive"]


@given(st.sampled_from([EXCLUSIVE, AUTO_DELETE, EXPIRES, BOTH]), st.integers(0, 10**10), st.text(), st.booleans())
def test_tags_are_read_as_they_were_written_and_legal(kind: Kind, at: int, who: str, left: bool) -> None:
    promise = ownership.user_tag("a", at, 600, who, has_left=left)
    tags = ownership.kind_tag(kind) | used(at) | promise | ownership.condemned_tag(at, who)
    for key, value in tags.items():
        assert re.fullmatch(r"[A-Za-z0-9_.:/=+@ -]*", key + value)
        assert value == value.strip()
        assert len(key) <= TAG_KEY_MAX_CHARS
        assert len(value) <= TAG_VALUE_MAX_CHARS
    found = read(tags)
    assert found is not None
    assert (found.kind, found.used_s, found.is_condemned) == (kind, at, True)
    [one] = found.users
    assert (one.until_s, one.limit_s, one.has_left) == (at + 600, 600, left)


def test_a_sign_of_use_changes_the_signs() -> None:
    before = ownership.kind_tag(BOTH) | used() | user()
    for change in (used(NOW + 1), user(at=NOW + 1), user("b"), user(left=True), ownership.kind_tag(EXCLUSIVE)):
        assert read(before | change).signs() != read(before).signs()  # type: ignore[union-attr]
    note = ownership.condemned_tag(NOW, "janitor")
    assert read(before | note).signs() == read(before).signs()  # type: ignore[union-attr]


def test_a_queue_with_all_its_bindings_has_room_for_its_users() -> None:
    keys = [f"hake:b:{number}" for number in range(MAX_BINDING_TAGS)] + ["hake:made-by", "hake:namespace"]
    tags = dict.fromkeys(keys, "x") | ownership.kind_tag(BOTH) | used()
    for number in range(ownership.MAX_USERS):
        found = read(tags)
        assert found is not None
        assert ownership.room_for(tags, NOW, found, SQS_MAX_TAGS) == (number < ownership.MAX_USERS)
        tags |= user(str(number))
    assert len(tags | user(ownership.OTHERS) | ownership.condemned_tag(NOW, "x")) <= SQS_MAX_TAGS


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (QueueSpec("q"), "no"),
        (QueueSpec("q", exclusive=True, auto_delete=True), "exclusive"),
        (QueueSpec("q", exclusive=True, arguments={"x-expires": 10_000}), "exclusive"),
        (QueueSpec("q", auto_delete=True), "auto-delete"),
        (QueueSpec("q", arguments={"x-expires": 10_000}), "expires=600"),
        (QueueSpec("q", auto_delete=True, arguments={"x-expires": 86_400_000.0}), "auto-delete expires=86400"),
    ],
)
def test_what_a_queue_was_declared_with(spec: QueueSpec, text: str) -> None:
    assert str(spec.kind) == text
    assert bool(spec.kind) == (text != "no")


# --- tags from outside

HUGE = "9" * 255


@pytest.mark.parametrize(
    "value", [HUGE, "1e400", "-1", "\N{ARABIC-INDIC DIGIT ONE}", "nan", "1_000", "", " ", "\x1b[2J"]
)
def test_a_time_of_use_that_is_no_plausible_number_is_none(value: str) -> None:
    found = read(ownership.kind_tag(EXPIRES) | {"hake:used": value})
    assert found is not None
    assert found.used_s is None
    assert found.due_s() is None


def test_what_a_user_calls_itself_is_fit_for_a_log() -> None:
    forged = "web\x1b[2J\rnot\tours\u202e" + "x" * 400
    found = read(ownership.kind_tag(EXCLUSIVE) | {"hake:user:a": f"1 600 {forged}"})
    assert found is not None
    [one] = found.users
    assert re.fullmatch(r"[A-Za-z0-9_.:/=+@-]{1,100}", one.who)


def test_a_limit_is_at_most_a_day() -> None:
    found = read(ownership.kind_tag(EXCLUSIVE) | {"hake:user:a": "1 999999 x"})
    assert found is not None
    assert found.limit_s() == 86_400
