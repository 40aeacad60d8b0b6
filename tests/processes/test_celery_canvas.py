"""What tasks start after a fan-out goes where its own options say; what is tried again stays in its group."""

from collections import Counter
from pathlib import Path

import pytest
from support.celery_workers import Stage, wait_until

GROUPS = ("email", "inventory", "analytics")
PUBLISH = """
from celery import chain
from apps.canvas import *
first.apply_async(("link",), link=follower.si("link"), **FANNED)
chain(first.s("chain").set(**FANNED), follower.si("chain"), follower.si("chain end")).apply_async()
troubled.apply_async(("fails",), link_error=follower.si("link_error"), **FANNED)
listed.starmap([("starmap",), ("starmap",)]).apply_async(**FANNED)
listed.chunks([("chunks",)] * 2, 1).group().apply_async(**FANNED)
for what in ("replace", "group", "chord"):
    starts.apply_async((what,), **FANNED)
for what in ("retries twice", "retries later", "retries elsewhere", "retries everywhere"):
    troubled.apply_async((what,), **FANNED)
requeued.apply_async(("requeue",), **FANNED)
"""
ONCE_EACH = dict.fromkeys(GROUPS, 1)
#: (task, what) to runs by queue.
EXPECTED: dict[tuple[str, str], dict[str, int]] = {
    # Each group has run the task; what follows has the default queue, and so runs there, once for each.
    ("first", "link"): ONCE_EACH,
    ("follower", "link"): {"celery": 3},
    ("first", "chain"): ONCE_EACH,
    ("follower", "chain"): {"celery": 3},
    ("follower", "chain end"): {"celery": 3},
    ("troubled", "fails"): ONCE_EACH,
    ("follower", "link_error"): {"celery": 1},
    # These run inside of one task that was fanned out.
    ("listed", "starmap"): {"": 6},
    ("listed", "chunks"): {"": 6},
    ("starts", "replace"): ONCE_EACH,
    ("follower", "replace"): {"celery": 3},
    ("starts", "group"): ONCE_EACH,
    ("follower", "group"): {"celery": 6},
    ("starts", "chord"): ONCE_EACH,
    ("follower", "chord"): {"celery": 6},
    ("follower", "chord body"): {"celery": 3},
    # What is tried again stays, unless it is told to go.
    ("troubled", "retries twice"): {"email": 1, "inventory": 3, "analytics": 1},
    ("troubled", "retries later"): {"email": 1, "inventory": 2, "analytics": 1},
    ("troubled", "retries elsewhere"): {**ONCE_EACH, "celery": 1},
    ("troubled", "retries everywhere"): dict.fromkeys(GROUPS, 2),
    ("requeued", "requeue"): {"email": 1, "inventory": 2, "analytics": 1},
}


@pytest.mark.timeout(180)
def test_what_follows_a_fan_out_runs_where_rabbitmq_would_run_it(
    on_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANVAS_BACKEND", f"file://{tmp_path}")
    worker = on_stage.start("apps.canvas", "-Q", ",".join([*GROUPS, "celery"]), "-P", "threads", "-c", "4")
    on_stage.python("-c", PUBLISH)

    def found() -> dict[tuple[str, str], dict[str, int]]:
        runs = Counter((run["task"], run["what"], run["routing_key"]) for run in on_stage.runs.all())
        by_task: dict[tuple[str, str], dict[str, int]] = {}
        for (task, what, queue), count in runs.items():
            by_task.setdefault((task, what), {})[queue] = count
        return by_task

    def differs() -> str:
        is_now = found()
        return str({key: (is_now.get(key), want) for key, want in EXPECTED.items() if is_now.get(key) != want})

    total = sum(sum(runs.values()) for runs in EXPECTED.values())
    wait_until(lambda: len(on_stage.runs.all()) >= total and found() == EXPECTED, differs, 60)
    worker.stop()
    assert found() == EXPECTED, differs()
    for run in on_stage.runs.all():
        if run["task"] in ("first", "starts", "troubled", "requeued") and run["routing_key"] in GROUPS:
            assert run["origin"] == {"exchange": "orders", "routing_key": "any"}
            assert run["exchange"] == "hake.queue"
    ids = {run["id"] for run in on_stage.runs.of(what="retries twice")}
    assert len(ids) == 1
