"""The scheme is known by itself; the serializer is registered and of use."""

import importlib.metadata
import subprocess
import sys

import kombu.serialization
import pytest
from kombu.transport import TRANSPORT_ALIASES, resolve_transport

import kombu_hake
from kombu_hake.plugin import hake_json, register_transport


def run(script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_entry_point_names_something_that_exists() -> None:
    [entry] = importlib.metadata.entry_points(group="kombu.serializers", name="hake-json")
    assert entry.load() is hake_json


@pytest.mark.parametrize(
    "statement",
    [
        "from kombu import Connection, Producer; Producer",
        "from kombu import Queue, Connection; Queue",
        "from celery import Celery; Connection = Celery('x', broker='hake://', set_as_current=False).connection",
        "import kombu_hake; from kombu import Connection",
    ],
)
def test_the_scheme_is_known_with_nothing_imported_by_the_user(statement: str) -> None:
    assert run(f"{statement}\nprint(Connection('hake://').transport.driver_type)") == "hake"


def test_the_order_of_imports_does_not_matter() -> None:
    assert run("import kombu_hake.transport, kombu.serialization; print('fine')") == "fine"
    assert run("import kombu.serialization, kombu_hake.transport; print('fine')") == "fine"
    assert run("import kombu_hake; print(kombu_hake.batch.__name__)") == "batch"


def test_registering_again_is_harmless_and_overrides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSPORT_ALIASES, "hake", "somebody.else:Transport")
    register_transport()
    assert TRANSPORT_ALIASES["hake"] == "somebody.else:Transport"


def test_the_alias_leads_to_the_transport() -> None:
    from kombu_hake.transport import Transport

    assert resolve_transport("hake") is Transport


def test_the_serializer_is_json_without_blanks() -> None:
    body = {"args": [1, 2], "kwargs": {"a": "é"}}
    content_type, encoding, text = kombu.serialization.dumps(body, serializer="hake-json")
    assert (content_type, encoding) == ("application/x-hake-json", "utf-8")
    assert " " not in text
    assert kombu.serialization.loads(text, content_type, encoding, accept={content_type}) == body
    assert len(text) < len(kombu.serialization.dumps(body, serializer="json")[2])


def test_public_names_exist() -> None:
    assert all(getattr(kombu_hake, name) for name in kombu_hake.__all__)
    with pytest.raises(AttributeError):
        _ = kombu_hake.nothing
