"""Handlers with models in a real worker: what they get, and that invalid data ends in the dead letters."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from support.emulators import Emulator
from support.workers import Console, all_logs, celery, until, workers

APP = "typed_shop"
GROUPS = {"email": ["-c", "1"]}


@pytest.mark.parametrize("leg", ["moto"])
def test_invalid_events_are_dead_lettered_and_the_worker_handles_the_next(aws: Emulator, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.touch()
    settings = {"HAKE_BROKER_URL": aws.url(visibility_timeout=5), "TYPED_RUNS": str(runs)}

    def await_runs(*expected: str) -> None:
        until(
            lambda: sorted(runs.read_text().splitlines()) == sorted(expected),
            lambda: f"{runs.read_text()}\n{all_logs(tmp_path, GROUPS)}",
        )
        runs.write_text("")

    def publish_raw(payload: dict[str, object], key: str) -> None:
        """As a publisher without the models does."""
        arn = aws.client("sns").create_topic(Name=f"{aws.namespace}__orders")["TopicArn"]
        attributes = {"rk": {"DataType": "String", "StringValue": key}}
        aws.client("sns").publish(TopicArn=arn, Message=json.dumps(payload), MessageAttributes=attributes)

    def dead() -> dict[str, dict[str, str]]:
        letters = json.loads(celery(APP, settings, "hake", "dlq", "list", "email", "--json"))
        return {letter["task"]: letter for letter in letters}

    console = Console(APP, settings)
    with closing(console), workers(APP, GROUPS, settings, tmp_path):
        console.ask("app.placed.publish(order_id=7).id")
        plain = "{'order_id': 7, 'currency': 'EUR'}"
        await_runs("receipt OrderPlaced(order_id=7, currency='EUR')", f"plain {plain}")

        publish_raw({"order_id": "seven"}, "placed")
        await_runs("plain {'order_id': 'seven'}")
        publish_raw({"order_id": "seven"}, "paid")
        until(lambda: set(dead()) == {"receipt", "thank"}, lambda: all_logs(tmp_path, GROUPS))
        for name, letter in dead().items():
            assert (letter["reason"], letter["exception"]) == ("failed", "InvalidEvent"), name
            assert "order_id" in letter["message"]
        assert "order_id must be int, not str" in dead()["receipt"]["message"]

        console.ask("app.paid.publish(order_id=9).id")
        console.ask("app.receipt.delay(app.OrderPlaced(8, 'XXX')).id")
        retried = "receipt OrderPlaced(order_id=8, currency='XXX')"
        await_runs("thank OrderPaid(order_id=9)", retried, retried)
