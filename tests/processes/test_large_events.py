"""Events of up to 1 MiB through a real worker: three groups, several handlers, a retry, a dead letter.

On the fake: emulators take no more than 256 KiB through a topic.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.celery_workers import Stage, client, stage, wait_until
from support.standin import StandIn

from kombu_hake import Topic

SIZE = 1_000_000
#: The envelope with all but the text, the attributes, and what a dead letter adds.
ROOM = 5_000


@pytest.fixture
def aws() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


@pytest.fixture
def options() -> dict[str, object]:
    return {"visibility_timeout": 60}


@pytest.fixture
def on_stage(aws: StandIn, tmp_path: Path, options: dict[str, object]) -> Iterator[Stage]:
    with stage(aws.url("shop", **options), tmp_path) as found:
        yield found


@pytest.mark.parametrize("options", [{"visibility_timeout": 60, "compress_above": 65_536}])
def test_a_compressed_event_is_retried_copied_and_set_aside(aws: StandIn, on_stage: Stage) -> None:
    """Larger than AWS takes, without compression."""
    worker = on_stage.start("apps.raised", "-P", "solo", "-Q", "email,stock,billing")
    events = Topic("orders", app=client(on_stage))
    for fails in (False, True):
        events.send("placed", {"text": "x" * 2 * SIZE, "fails": fails})
    expected = {"receipt": 2, "reserve": 2, "count": 2, "charge": 3}
    wait_until(lambda: Counter(run["task"] for run in on_stage.runs.all()) == expected, lambda: worker.log[-4000:])
    assert {run["size"] for run in on_stage.runs.all()} == {2 * SIZE}
    wait_until(lambda: dead(aws), lambda: worker.log[-4000:])
    [letter] = dead(aws)
    assert json.loads(letter)["headers"]["compression"] == "application/x-gzip"
    assert len(letter) < 20_000
    worker.stop()


def dead(aws: StandIn) -> list[str]:
    """The dead letters of the group ``billing``."""
    queues = aws.fake.queues
    [name] = [name for name in queues.by_name if name.startswith("shop__billing") and "dead" in name]
    return queues.queue(name).bodies()


def test_an_event_of_a_mebibyte_reaches_all_handlers(aws: StandIn, on_stage: Stage) -> None:
    worker = on_stage.start("apps.raised", "-P", "solo", "-Q", "email,stock,billing")
    assert aws.fake.topics.by_name["shop__orders"].attributes["MaximumMessageSize"] == "1048576"
    events = Topic("orders", app=client(on_stage))  # knows no size, and learns it
    events.send("placed", {"text": "x" * SIZE, "fails": False})
    expected = {"receipt": 1, "reserve": 1, "count": 1, "charge": 2}
    wait_until(lambda: Counter(run["task"] for run in on_stage.runs.all()) == expected, lambda: worker.log[-4000:])
    assert {run["size"] for run in on_stage.runs.all()} == {SIZE}

    largest = 1_048_576 - ROOM
    events.send("placed", {"text": "x" * largest, "fails": True})
    wait_until(lambda: dead(aws), lambda: worker.log[-4000:])
    [letter] = dead(aws)
    sent = json.loads(letter)
    assert len(json.loads(sent["body"])[1]["text"]) == largest
    [death] = sent["headers"]["hake_deaths"]
    assert (death["reason"], death["queue"], death["exception"]) == ("failed", "billing", "ValueError")
    assert "traceback" not in death
    worker.stop()
