"""Freed memory goes back to the system after a large message was decoded."""

import ctypes
import subprocess
import sys
from typing import Any
from unittest import mock

import pytest

from kombu_hake.receive import memory, messages
from kombu_hake.receive.messages import HakeMessage
from kombu_hake.receive.stored import Stored

#: Frees a block below one that stays, after the free of another has raised the size from which glibc maps blocks.
HOLE = """
from kombu_hake.receive.memory import give_back_freed

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

size = 20 * 1024 * 1024
first = b"x" * size
del first
freed, kept = b"x" * size, b"y" * size
del freed
before = resident()
give_back_freed()
print(before - resident())
"""


@pytest.fixture(autouse=True)
def anew() -> Any:
    memory._trim.cache_clear()
    yield
    memory._trim.cache_clear()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps freed blocks so")
def test_a_hole_goes_back() -> None:
    found = subprocess.run([sys.executable, "-c", HOLE], capture_output=True, text=True, check=True, timeout=60)
    assert int(found.stdout) > 18 * 1024 * 1024


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError, ImportError])
def test_without_glibc_nothing_happens(error: type[Exception]) -> None:
    with mock.patch("ctypes.CDLL", side_effect=error):
        memory.give_back_freed()


@pytest.mark.parametrize("is_stored", [True, False])
def test_only_decoding_a_payload_of_s3_does_it(is_stored: bool) -> None:
    message = HakeMessage(b"[1]", channel=mock.Mock(), content_type="application/json", content_encoding="utf-8")
    message.stored = Stored(None, {}) if is_stored else None
    with mock.patch.object(messages, "give_back_freed") as give_back:
        assert message.payload == message.payload == [1]
    assert give_back.call_count == (1 if is_stored else 0)
