"""Text from outside can't forge a log line, drive a terminal or fill a disk, whatever it is."""

import importlib
import io
import json
import logging
import pkgutil
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery.app.log import TaskFormatter
from hypothesis import example, given
from hypothesis import strategies as st

import kombu_hake
from kombu_hake.quoting import LOG_CHARS, MARK, escaped, fields, guarded, quoted

#: Newlines, ANSI, C1, right-to-left override, isolate, zero-width, line separator, tag character, lone surrogate, NUL.
NASTY = "a\n\r\x1b[2J\x9b31m\u202e\u2066\u200b\u2028\U000e0041\ud800\x00\x7f"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner) | st.frozensets(st.text()),
    max_leaves=20,
)


def is_safe(text: str) -> bool:
    text.encode()  # no lone surrogates
    return text.isprintable()


class Rude:
    """Its representation raises, and so does all else."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class RudeText(str):
    """A text whose methods lie."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\x1b"

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no")


@given(value=values | st.text(alphabet=st.characters()), most=st.integers(1, 300))
@example(value=NASTY, most=300)
@example(value={NASTY: [NASTY]}, most=300)
def test_anything_becomes_one_printable_line_of_bounded_length(value: object, most: int) -> None:
    text = quoted(value, most)
    assert is_safe(text)
    assert len(text) <= most


@pytest.mark.parametrize(
    ("value", "shown"), [(Rude(), "<Rude>"), (RudeText("x\x1b"), "x\\x1b")], ids=["object", "text"]
)
def test_no_code_of_the_value_runs(value: object, shown: str) -> None:
    assert quoted(value) == shown


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"])))
def test_a_short_printable_text_stays_as_it_is(text: str) -> None:
    assert quoted(text, max(1, len(text))) == text


@given(st.text(alphabet=st.characters()), st.integers(1, 50))
def test_escaping_twice_changes_nothing(text: str, most: int) -> None:
    assert escaped(escaped(text, most), most) == escaped(text, most)


def test_what_is_cut_says_so() -> None:
    assert quoted("x" * 300, 10) == "x" * 9 + MARK
    assert quoted(["x"] * 300, 12) == "['x', 'x', " + MARK


def test_values_look_like_what_they_are() -> None:
    shown = quoted({"a": 1, "b": [None, True, 1.5, "x\n", b"\xff"]})
    assert shown == "{'a': 1, 'b': [None, True, 1.5, 'x\\n', b'\\xff']}"
    assert quoted(Decimal("1E+999999")) == "<Decimal>"


def test_lines_may_be_kept() -> None:
    assert escaped("a\n\x1bb", keep="\n") == "a\n\\x1bb"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


HUGE: dict[str, Callable[[], object]] = {
    "integer": lambda: 10**100_000,
    "nested": lambda: nested(100_000),
    "cyclic": cyclic,
    "list": lambda: ["x"] * 5_000_000,
    "text": lambda: "x" * 20_000_000,
    "bytes": lambda: {"k": b"x" * 20_000_000},
}


@pytest.mark.parametrize("kind", HUGE)
def test_only_what_is_shown_is_looked_at(kind: str) -> None:
    value = HUGE[kind]()
    tracemalloc.start()
    try:
        assert len(quoted(value)) <= 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = guarded(logging.Logger("outside"))
    logger.addHandler(handler)
    return logger, stream


def test_a_log_line_is_one_line_whatever_it_is_filled_in_with(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.warning("%s %s %r %d %.1f", NASTY, ValueError(NASTY), NASTY, 7, 0.5)
    logger.warning("%s", {"task": NASTY})
    logger.warning("%s", Rude())
    logger.warning("none")
    lines = stream.getvalue().split("\n")
    assert len(lines) == 5
    assert all(map(is_safe, lines))
    assert lines[0].endswith(" 7 0.5")
    assert lines[2:4] == ["<Rude>", "none"]


def test_a_log_line_is_of_bounded_length(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.warning("%s", "x" * 1_000_000)
    assert len(stream.getvalue()) == LOG_CHARS + 1


def test_a_traceback_keeps_its_lines_and_nothing_else_that_is_not_printable(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = log
    try:
        raise ValueError(NASTY)
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().split("\n")
    assert lines[:2] == ["failed", "Traceback (most recent call last):"]
    assert all(map(is_safe, lines))


def test_every_logger_of_the_package_is_guarded() -> None:
    unguarded = []
    for info in pkgutil.walk_packages(kombu_hake.__path__, "kombu_hake."):
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as exc:
            if exc.name != "django.tasks":
                raise
            continue  # before Django 6; the test below reads these modules
        logger = getattr(module, "logger", None)
        if logger is not None and not logger.filters:
            unguarded.append(info.name)
    assert unguarded == []


def test_every_logger_has_the_name_by_which_tests_find_it() -> None:
    usual = "logger = guarded(logging.getLogger(__name__))"
    texts = {path.name: path.read_text() for path in Path(kombu_hake.__path__[0]).rglob("*.py")}
    assert {name for name, text in texts.items() if "getLogger" in text.replace(usual, "")} == {"testing.py"}


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> tuple[logging.Logger, list[logging.LogRecord]]:
    logger, handler = guarded(logging.Logger("outside")), Kept()
    logger.addHandler(handler)
    return logger, handler.records


def test_a_record_has_the_id_that_its_line_starts_with(kept: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = kept
    logger.warning("HAKE123 Queue %s", "HAKE456")
    logger.info("%s", "HAKE456 forged")
    logger.info("HAKE1234 is no id")
    assert [getattr(record, "hake_id", None) for record in records] == ["HAKE123", None, None]
    assert records[0].getMessage() == "HAKE123 Queue HAKE456"


def test_a_record_has_what_its_line_is_about(kept: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = kept
    logger.warning("HAKE123 x", extra=fields(queue="q", task_id="id-1", message_id=Rude()))
    [record] = records
    assert record.__dict__["queue"] == "q"
    assert record.__dict__["message_id"] == "<Rude>"
    assert record.__dict__["task_id"] == "id-1"
    assert "exchange" not in record.__dict__


@given(value=values | st.text(alphabet=st.characters()))
@example(value=NASTY)
@example(value=[RudeText("x\x1b"), Decimal("1E+999999"), 10**1_000])
@example(value="hake://key:secret@host/")
@example(value="x" * 10_000)
def test_fields_are_short_printable_text_whatever_they_are(value: object) -> None:
    logger, handler = guarded(logging.Logger("outside")), Kept()
    logger.addHandler(handler)
    logger.warning("x", extra=fields(queue=value, exchange=value, task_id=value, message_id=value))
    [record] = handler.records
    for name in ("queue", "exchange", "task_id", "message_id"):
        text = record.__dict__.get(name, "")
        assert type(text) is str
        assert is_safe(text)
        assert len(text) <= LOG_CHARS
        assert "secret" not in text


@pytest.fixture
def _factory_with_fields() -> Iterator[None]:
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.queue, record.task_id, record.hake_id = "theirs", "theirs", "theirs"
        return record

    logging.setLogRecordFactory(make)
    yield
    logging.setLogRecordFactory(before)


@pytest.mark.usefixtures("_factory_with_fields")
def test_a_record_factory_may_set_the_same_names(kept: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = kept
    logger.warning("HAKE123 x", extra=fields(queue="q"))
    [record] = records
    assert (record.__dict__["queue"], record.__dict__["task_id"]) == ("q", "theirs")


def test_formatters_of_celery_and_json_write_the_fields(kept: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = kept
    logger.warning("HAKE123 x %s", "y", extra=fields(queue="q", task_id="id-1"))
    [record] = records
    text = TaskFormatter("%(hake_id)s %(queue)s %(task_id)s %(task_name)s %(message)s", use_color=False).format(record)
    assert text == "HAKE123 q id-1 ??? HAKE123 x y"
    assert json.loads(json.dumps(record.__dict__))["queue"] == "q"
