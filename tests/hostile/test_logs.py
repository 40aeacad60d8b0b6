"""What a message holds for the task does not appear in the log lines of this package, whatever is wrong with it."""

import json
import logging
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from kombu.exceptions import KombuError

from hostile.corpus import GROUP, TOPIC, Hostile, corpus
from hostile.fuzz import _Group
from kombu_hake.exceptions import HakeError
from kombu_hake.worker import safeguard

SECRET = "s3cr3t-argument"
MAX_CHARS = 5_000


def with_secret(text: str) -> str:
    """The message with :data:`SECRET` among its arguments, in ``argsrepr``, or at least in its text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return f"{SECRET} {text} {SECRET}"
    if not isinstance(found, dict):
        return json.dumps([found, SECRET])
    body = found.get("body")
    if not isinstance(body, str):
        return json.dumps({**found, "secret": SECRET})
    if isinstance(headers := found.get("headers"), dict):
        headers.update(argsrepr=SECRET, kwargsrepr=SECRET)
    return json.dumps({**found, "body": _body_with_secret(body)})


def _body_with_secret(body: str) -> str:
    try:
        args, kwargs, embed = json.loads(body)
        return json.dumps([[*args, SECRET], {**kwargs, SECRET: SECRET}, embed])
    except (ValueError, TypeError, RecursionError):
        return body + SECRET


def messages() -> list[Hostile]:
    return [one for one in corpus() if len(one.text) < MAX_CHARS and "bomb" not in one.name]


def test_no_argument_and_no_body_is_in_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack, caplog.at_level(logging.DEBUG, "kombu_hake"):
        group = _Group(stack)
        receive = group.on_message

        def checked(message: Any) -> None:
            fault = safeguard.fault_in(message)
            if fault is None:
                receive(message)
            else:
                message.quarantine(f"malformed: {fault}")

        group.on_message = checked
        lines = 0
        for one in messages():
            caplog.clear()
            text = with_secret(one.text)
            assert SECRET in text
            with suppress(HakeError, KombuError):  # what Celery rejects a message for
                group.try_one(text, dict(one.attributes) if one.to in (TOPIC, GROUP) else {})
            lines += len(caplog.records)
            for record in caplog.records:
                assert SECRET not in f"{record.getMessage()} {record.exc_text or ''}", one.name
    assert lines > 100  # most were set aside, and a line says so
