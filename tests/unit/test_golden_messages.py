"""Messages that are in the queues of users: every version reads them, and writes what the readers of before understand.

See :mod:`golden_messages` for the files, and :mod:`write_golden_messages` for where they come from.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from golden_messages import FOLDER, plain, read, typed, write
from packaging.version import Version
from test_envelope import SqsSide

FILES = sorted(FOLDER.glob("*/*.json"))


def version_of(folder: Path) -> Version:
    return Version(folder.name.rpartition("-")[2])


OURS = [path for path in FILES if path.parent.name.startswith("kombu_hake-")]
#: Of the latest version that has files.
LATEST = sorted(max(FOLDER.glob("kombu_hake-*"), key=version_of).glob("*.json"))
each = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
each_of_ours = pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
each_of_latest = pytest.mark.parametrize("path", LATEST, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    return case


def read_by_sqs(body: str) -> dict[str, Any]:
    """What kombu's ``sqs://`` hands over."""
    message = SqsSide().read(body)
    found = message.body if isinstance(message.body, bytes) else message.body.encode()
    return {
        "body_base64": base64.b64encode(found).decode(),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": plain(message.headers),
    }


@each
def test_a_message_is_read_as_ever(path: Path) -> None:
    case = load(path)
    expected = case["read"]
    # Version 0.1 kept the header of a body that it had decompressed: the next reader of a copy could not read it.
    headers = {name: value for name, value in expected["headers"].items() if name != "compression"}
    properties = dict(expected["properties"])
    if not case["queue"].endswith(".fifo") and "MessageGroupId" in properties:
        properties["tenant"] = properties["MessageGroupId"]  # since 1.0
    found = read(case["received"], case["queue"], is_bound=case["is_bound"])
    assert found == {**expected, "headers": headers, "properties": properties}, case["about"]


@each_of_ours
def test_kombus_sqs_transport_reads_the_same_message(path: Path) -> None:
    case = load(path)
    ours = case["read"]
    theirs = read_by_sqs(case["received"]["Body"])
    # The origin is a header that the reader adds: it is not on the wire before.
    headers = json.loads(case["received"]["Body"])["headers"]
    assert theirs == {name: ours[name] for name in theirs} | {"headers": headers}, case["about"]
    assert theirs["headers"].items() <= ours["headers"].items()


@each_of_latest
def test_what_is_written_today_is_what_was_written_before(path: Path) -> None:
    case = load(path)
    sent, received = write(typed(case["recipe"]))
    assert plain(sent) == case["sent"], case["about"]
    assert json.loads(received["Body"]) == json.loads(case["received"]["Body"]), case["about"]
    assert received.get("MessageAttributes") == case["received"].get("MessageAttributes"), case["about"]


@each_of_latest
def test_what_is_written_today_is_read_by_kombus_sqs_transport(path: Path) -> None:
    case = load(path)
    _, received = write(typed(case["recipe"]))
    assert read_by_sqs(received["Body"]) == read_by_sqs(case["received"]["Body"]), case["about"]
