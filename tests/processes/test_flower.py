"""Flower as its users run it, ``celery -A app flower``, looked at and clicked on in a real browser.

``HAKE_SCREENSHOTS`` names a folder to keep screenshots in.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from celery import Celery
from support.browser import Browser
from support.celery_workers import Stage, Worker, client, stage, wait_until
from support.emulators import Emulator, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

SECRET = "s3cr3t/+key"
#: One that runs alone takes a second or two; one that shares the machine may take ten times as long.
PATIENCE_MS = 30_000

#: Flower lets nobody change anything who has not logged in, unless told so.
OPEN = {"FLOWER_UNAUTHENTICATED_API": "true"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def on_stage(moto: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    aws = replace(moto, secret=quote(SECRET, safe=""))
    with stage(aws.url(f"p{uuid4().hex[:8]}"), tmp_path_factory.mktemp("flower")) as found:
        yield found


@pytest.fixture(scope="module")
def workers(on_stage: Stage) -> list[Worker]:
    """Started without ``-E``: Flower asks them for task events."""
    options = ("-P", "prefork", "-c", "2")
    both = [on_stage.start("apps.controlled", *options, name=name, ready=False) for name in ("one", "two")]
    on_stage.wait_until_ready(*both)
    return both


@pytest.fixture(scope="module")
def app(on_stage: Stage) -> Iterator[Celery]:
    with closing(client(on_stage)) as app:
        yield app


@pytest.fixture(scope="module")
def flower(on_stage: Stage, workers: list[Worker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    port, log = free_port(), tmp_path_factory.mktemp("flower-log") / "log"
    command = [sys.executable, "-m", "celery", "-A", "apps.controlled", "flower", "--address=127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--port={port}"], cwd=log.parent, env=on_stage.environment() | OPEN, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(partial(answers, process, port, log), "Flower to start", 60)
        enabled = "enabled by remote"  # what a worker does before is not told to Flower
        wait_until(lambda: all(enabled in worker.log for worker in workers), "Flower to ask for events", 60)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert "Traceback" not in text, text
    assert SECRET not in text
    assert quote(SECRET, safe="") not in text


def answers(process: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def page(browser: Browser, flower: str) -> "Page":
    """One tab for all tests."""
    page = browser.page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def look(page: "Page", name: str) -> None:
    """Keep a picture, if anybody wants one; and see that nothing secret is shown."""
    shown = page.content()
    assert SECRET not in shown
    assert quote(SECRET, safe="") not in shown
    folder = os.environ.get("HAKE_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def see(page: "Page", *texts: str) -> None:
    """Wait until the page shows all these."""
    for text in texts:
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)


def see_in_time(page: "Page", text: str) -> None:
    """Load the page again until it shows the text: Flower fills it from the events that have arrived by then."""

    def is_shown() -> bool:
        page.reload(wait_until="networkidle")
        return text in page.inner_text("body")

    wait_until(is_shown, lambda: f"{text!r} on {page.url}, which shows\n{page.inner_text('body')}")


def cells(page: "Page", table: str) -> list[list[str]]:
    """The text of a table's rows."""
    rows: list[list[str]] = page.eval_on_selector_all(
        f"{table} tbody tr", "rows => rows.map(row => Array.from(row.cells).map(cell => cell.innerText.trim()))"
    )
    return rows


def ask(app: Celery, question: str, worker: str, *args: object) -> Any:
    """What a worker itself says."""
    answer = app.control.inspect(destination=[worker], timeout=15, limit=1)
    return (getattr(answer, question)(*args) or {}).get(worker)


def test_lists_the_workers_and_their_tasks(
    page: "Page", flower: str, app: Celery, on_stage: Stage, workers: list[Worker]
) -> None:
    page.goto(f"{flower}/workers")
    see(page, "one@test", "two@test")
    enabled = "Events of group {task} enabled by remote."
    wait_until(lambda: all(enabled in worker.log for worker in workers), "Flower to ask for task events")
    for number in range(20):
        app.send_task("handle", [number])
    page.wait_for_function("() => /Succeeded\\s+20/i.test(document.body.innerText)")
    assert sorted(row[:2] for row in cells(page, "#workers-table") if "@" in row[0]) == [
        ["one@test", "Online"],
        ["two@test", "Online"],
    ]
    look(page, "workers")

    page.set_viewport_size({"width": 1280, "height": 560})
    page.goto(f"{flower}/tasks")
    see_in_time(page, "SUCCESS")
    rows = cells(page, "#tasks-table")
    assert {row[0] for row in rows} == {"handle"}
    assert {row[2] for row in rows} == {"SUCCESS"}
    look(page, "tasks")
    page.set_viewport_size({"width": 1280, "height": 800})


def test_sets_a_rate_limit(page: "Page", flower: str, app: Celery) -> None:
    page.goto(f"{flower}/worker/one@test")
    page.click("#worker-tab-limits")
    row = page.locator("#limits-table tr", has_text="handle")
    row.get_by_placeholder("Rate").fill("7")
    row.get_by_role("button", name="Apply").click()
    see(page, "new rate limit set successfully")
    page.wait_for_function("() => getComputedStyle(document.querySelector('.toast.show')).opacity === '1'")
    look(page, "rate-limit")
    assert "handle [rate_limit=7]" in ask(app, "registered", "one@test")
    assert "handle" in ask(app, "registered", "two@test")


@pytest.mark.slow
def test_shows_the_settings_without_the_secret(page: "Page", flower: str) -> None:
    page.goto(f"{flower}/worker/one@test")
    for tab in ("broker", "queues", "config", "system", "other"):
        page.click(f"#worker-tab-{tab}")
        page.wait_for_selector(f"#tab-{tab}.active.show")
        look(page, tab)


@pytest.mark.slow
def test_lets_the_pool_grow(page: "Page", flower: str, app: Celery) -> None:
    page.goto(f"{flower}/worker/one@test")
    page.fill("#pool-size", "2")
    page.click("#worker-pool-grow")
    see(page, "Growing 'one@test' worker's pool by 2")
    wait_until(lambda: len((ask(app, "stats", "one@test") or {"pool": {"processes": ()}})["pool"]["processes"]) == 4,
               "four processes")  # fmt: skip
    look(page, "pool")


@pytest.mark.slow
def test_has_a_worker_consume_one_more_queue(page: "Page", flower: str, app: Celery, on_stage: Stage) -> None:
    page.goto(f"{flower}/worker/one@test")
    page.click("#worker-tab-queues")
    page.fill("#add-consumer-name", "extra")
    page.click("#worker-add-consumer")
    see(page, "add consumer extra")
    app.send_task("sleep", [50, 0], queue="extra")
    assert on_stage.runs.wait_for(1, number=50, event="end")[0]["worker"] == "one"


def test_terminates_a_task(page: "Page", flower: str, app: Celery, on_stage: Stage) -> None:
    task = app.send_task("sleep", [51, 600]).id
    on_stage.runs.wait_for(1, number=51)
    page.goto(f"{flower}/tasks")
    see_in_time(page, "STARTED")
    page.goto(f"{flower}/task/{task}")
    page.click("#task-terminate")
    see(page, "Revoked")
    see_in_time(page, "REVOKED")
    look(page, "revoked")
    assert not on_stage.runs.of(number=51, event="end")


def test_says_that_it_knows_no_queues_of_this_broker(page: "Page", flower: str) -> None:
    answer = page.goto(f"{flower}/broker")
    assert answer is not None
    assert answer.status == 404
    see(page, "'hake' broker is not supported")


def test_shuts_a_worker_down(page: "Page", flower: str, workers: list[Worker]) -> None:
    page.goto(f"{flower}/worker/two@test")
    page.click("#worker-group")
    page.click("#worker-shutdown")
    assert workers[1].wait_for_end(30) == 0
    page.goto(f"{flower}/workers")
    page.wait_for_function("() => /two@test\\s+Offline/.test(document.body.innerText)")
    look(page, "offline")
    assert workers[0].errors() == []


def test_no_page_had_errors(browser: Browser, page: "Page") -> None:
    assert [fault for fault in browser.faults if "404" not in fault] == []
