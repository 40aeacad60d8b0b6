"""One topic, three groups, four handlers, as processes: who runs what, how often, and what becomes of failures."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.emulators import LEGS, Emulator
from support.workers import Console, all_logs, celery, log, until, workers

APP = "groups_shop"
GROUPS = {
    # One process: Celery publishes a retry before it stores the state RETRY. On a busy machine another process would
    # run the retry meanwhile, and its SUCCESS would be overwritten (celery/backends/base.py, ``_store_result``).
    "email": ["-c", "1"],
    "inventory": ["-c", "1", "-P", "solo"],
    "billing": ["-c", "2", "-P", "threads"],
}
ALL_RUNS = {"send_receipt": 1, "thank": 3, "reserve_stock": 1, "charge": 1}


class Shop:
    """The running shop: its workers, and what they did."""

    def __init__(self, aws: Emulator, folder: Path) -> None:
        self.aws = aws
        self.folder = folder
        (folder / "results").mkdir()
        self.settings = {
            "HAKE_BROKER_URL": aws.url(visibility_timeout=5),
            "GROUPS_RUNS": str(folder / "runs"),
            "GROUPS_FIXED": str(folder / "fixed"),
            "GROUPS_BACKEND": f"file://{folder}/results",
        }
        self.console = Console(APP, self.settings)
        self.ask = self.console.ask

    def publish(self, key: str, **payload: object) -> str:
        """The id of the event."""
        return str(self.ask(f"app.orders.send({key!r}, {payload}).id"))

    def result(self, event: str, group: str, handler: str) -> Any:
        return self.ask(f"app.orders.event('placed', {event!r}).result({group!r}, {handler!r}).get(timeout=20)")

    def runs(self, event: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "runs"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [run for run in found if event is None or run["event"]["id"] == event]

    def counts(self, event: str | None = None) -> Counter[str]:
        return Counter(run["task"] for run in self.runs(event))

    def await_runs(self, expected: dict[str, int], event: str | None = None) -> None:
        until(lambda: self.counts(event) == expected, lambda: f"{self.counts(event)}\n{all_logs(self.folder, GROUPS)}")

    def dead(self, group: str) -> list[dict[str, Any]]:
        return json.loads(celery(APP, self.settings, "hake", "dlq", "list", group, "--json"))

    def queue_url(self, queue: str) -> str:
        return str(self.aws.client("sqs").get_queue_url(QueueName=f"{self.aws.namespace}__{queue}")["QueueUrl"])

    def ready(self, queue: str) -> int:
        answer = self.aws.client("sqs").get_queue_attributes(
            QueueUrl=self.queue_url(queue), AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def publish_raw(self, text: str, **attributes: str) -> None:
        """As somebody does who has never heard of Celery."""
        # It exists: this finds it. A list would have pages, after all the other tests.
        arn = self.aws.client("sns").create_topic(Name=f"{self.aws.namespace}__orders")["TopicArn"]
        given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.aws.client("sns").publish(TopicArn=arn, Message=text, MessageAttributes=given)


@pytest.fixture
def shop(aws: Emulator, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(aws, tmp_path)
    with closing(shop.console), workers(APP, GROUPS, shop.settings, tmp_path):
        yield shop


@pytest.mark.parametrize("leg", LEGS)
def test_groups_of_one_topic(shop: Shop) -> None:
    event = shop.publish("placed", order_id=7)
    each_handler_runs_as_often_as_it_has_to(shop, event)
    ids = every_run_has_an_id_of_its_own_that_retries_keep(shop, event)
    results_are_by_group_and_handler(shop, event)
    a_final_failure_is_in_the_dead_letters_of_its_group_alone(shop, event, ids)
    dead_letters_have_the_right_policies(shop)
    nothing_is_delivered_that_no_handler_wants(shop)
    sent_back_it_runs_once_in_that_group(shop, event)
    an_event_that_comes_again_has_the_same_ids(shop, event, ids)
    json_of_others_runs_the_handlers(shop)
    malformed_json_is_set_aside_not_retried(shop)
    a_plain_task_still_goes_to_the_default_queue(shop)


def each_handler_runs_as_often_as_it_has_to(shop: Shop, event: str) -> None:
    shop.await_runs(ALL_RUNS, event)
    assert [run["retries"] for run in shop.runs(event) if run["task"] == "thank"] == [0, 1, 2]


def every_run_has_an_id_of_its_own_that_retries_keep(shop: Shop, event: str) -> dict[str, str]:
    results = f"app.orders.event('placed', {event!r}).results().values()"
    ids: dict[str, str] = shop.ask(f"{{h: r.id for handlers in {results} for h, r in handlers.items()}}")
    assert len({event, *ids.values()}) == 5
    assert {(run["task"], run["id"]) for run in shop.runs(event)} == set(ids.items())
    assert {(run["event"]["topic"], run["event"]["key"]) for run in shop.runs(event)} == {("orders", "placed")}
    return ids


def results_are_by_group_and_handler(shop: Shop, event: str) -> None:
    results = f"app.orders.event('placed', {event!r}).results()"
    shown = f"{{g: {{h: [r.state, str(r.result)] for h, r in rs.items()}} for g, rs in {results}.items()}}"
    expected = {
        "email": {"send_receipt": ["SUCCESS", "receipt 7"], "thank": ["SUCCESS", "thanks 7"]},
        "inventory": {"reserve_stock": ["SUCCESS", "reserved 7"]},
        "billing": {"charge": ["FAILURE", "no such card"]},
    }
    until(lambda: shop.ask(shown) == expected, lambda: str(shop.ask(shown)))


def a_final_failure_is_in_the_dead_letters_of_its_group_alone(shop: Shop, event: str, ids: dict[str, str]) -> None:
    until(lambda: shop.ready("billing-dead") == 1, lambda: all_logs(shop.folder, GROUPS))
    [letter] = shop.dead("billing")
    assert (letter["task"], letter["task_id"], letter["event_id"]) == ("charge", ids["charge"], event)
    assert (letter["reason"], letter["exception"], letter["message"]) == ("failed", "ValueError", "no such card")
    assert "no such card" in letter["deaths"][0]["traceback"]
    assert shop.ready("email-dead") == shop.ready("inventory-dead") == 0


def dead_letters_have_the_right_policies(shop: Shop) -> None:
    sqs = shop.aws.client("sqs")
    live, dead = (
        sqs.get_queue_attributes(QueueUrl=shop.queue_url(name), AttributeNames=["All"])["Attributes"]
        for name in ("billing", "billing-dead")
    )
    redrive = json.loads(live["RedrivePolicy"])
    assert (redrive["deadLetterTargetArn"], int(redrive["maxReceiveCount"])) == (dead["QueueArn"], 20)
    if shop.aws.name != "moto":  # which forgets it
        allowed = {"redrivePermission": "byQueue", "sourceQueueArns": [live["QueueArn"]]}
        assert json.loads(dead["RedriveAllowPolicy"]) == allowed


def nothing_is_delivered_that_no_handler_wants(shop: Shop) -> None:
    event = shop.publish("paid", order_id=8)
    shop.await_runs({"reserve_stock": 1}, event)
    shop.publish("shipped", order_id=9)
    assert shop.ready("email") == shop.ready("billing") == shop.ready("inventory") == 0


def sent_back_it_runs_once_in_that_group(shop: Shop, event: str) -> None:
    Path(shop.settings["GROUPS_FIXED"]).touch()
    assert "1 dead letter " in celery(APP, shop.settings, "hake", "dlq", "requeue", "billing", "--task", "char*")
    shop.await_runs(ALL_RUNS | {"charge": 2}, event)
    assert shop.result(event, "billing", "charge") == "charged 7"
    assert shop.ready("billing-dead") == 0


def an_event_that_comes_again_has_the_same_ids(shop: Shop, event: str, ids: dict[str, str]) -> None:
    shop.ask(f"app.orders.send('placed', {{'order_id': 7}}, event_id={event!r}).id")
    shop.await_runs({"send_receipt": 2, "thank": 6, "reserve_stock": 2, "charge": 3}, event)
    assert {(run["task"], run["id"]) for run in shop.runs(event)} == set(ids.items())


def json_of_others_runs_the_handlers(shop: Shop) -> None:
    # The key "args" would make Celery take the body for a message of protocol 1.
    shop.publish_raw('{"order_id": 77, "args": [1]}', rk="placed", event_id="order-77")
    shop.await_runs(ALL_RUNS, "order-77")
    assert shop.result("order-77", "inventory", "reserve_stock") == "reserved 77"


def malformed_json_is_set_aside_not_retried(shop: Shop) -> None:
    shop.publish_raw("no json at all", rk="paid")
    until(lambda: shop.ready("inventory-dead") == 1, lambda: log(shop.folder, "inventory"))
    [letter] = shop.dead("inventory")
    assert (letter["reason"], letter["contents"]) == ("malformed", "no json at all")
    assert shop.ready("inventory") == 0


def a_plain_task_still_goes_to_the_default_queue(shop: Shop) -> None:
    assert shop.ask("app.plain.delay(1).id")
    assert shop.ready("celery") == 1
