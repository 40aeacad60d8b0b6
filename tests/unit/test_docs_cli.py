"""What the pages show of the commands is what the commands print of the same groups and dead letters.

``python tests/unit/test_docs_cli.py`` draws the picture of docs/cli.md anew.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for those who run this file as a script
from support.pages import DOCS, blocks

from kombu_hake.admin import Binding, Change, CheckReport, DeadLetter, Group, Plan, QueueInfo, Right, Undeclared
from kombu_hake.admin.check.findings import found
from kombu_hake.cli.graph import mermaid
from kombu_hake.cli.plan import plan_lines
from kombu_hake.cli.tables import (
    check_sheet,
    dead_counts_table,
    groups_table,
    letter_sheet,
    letters_table,
    queues_table,
)

COUNTS = {"ready": 0, "in_flight": 0, "delayed": 0}
RECEIPT, WELCOME, STOCK, CHARGE = "shop.send_receipt", "shop.welcome", "shop.reserve_stock", "shop.charge"
#: The groups of docs/cli.md.
GROUPS = [
    Group(
        "email", bindings=[Binding("orders", "placed", [RECEIPT, WELCOME], True)],
        dead_queue="email-dead", dead=0, undelivered=0,
        **{**COUNTS, "in_flight": 1},
    ),
    Group(
        "inventory",
        bindings=[Binding("orders", "paid", [STOCK], False), Binding("orders", "placed", [STOCK], False)],
        state="missing",
    ),
    Group(
        "billing", bindings=[Binding("orders", "placed", [CHARGE], True)],
        dead_queue="billing-dead", dead=4, undelivered=0,
        **COUNTS,
    ),
]  # fmt: skip
#: The plan of docs/cli.md.
PLAN = Plan(
    (
        Change("create", "queue", "live__email", "It is declared but does not exist."),
        Change("create", "queue", "live__email-dead", "It keeps the dead letters of queue email."),
        Change("create", "subscription", "live__orders -> live__email",
               'The queue is bound but not subscribed. Filter: {"rk":["placed"]}'),
        Change("change", "attribute", "live__billing", "VisibilityTimeout is 60, but is declared as 1800."),
        Change("change", "attribute", "live__billing",
               "MessageRetentionPeriod is 1209600, but is declared as 345600.", True),
    ),
    (Undeclared("queue", "live__invoices", "This app does not declare it.", 3),),
)  # fmt: skip
TRACEBACK = """Traceback (most recent call last):
  …
  File "shop.py", line 31, in charge
    raise ValueError(f"no card for order {order_id}")
ValueError: no card for order 7
"""
#: Those of docs/dead-letters.md: task id, order, age.
LETTERS = (
    ("90c3e693-b238-5c81-b2cc-436ae19861e8", 7, 17),
    ("38994e1e-493b-5652-ab03-e58aeab883dd", 8, 17),
    ("439db8e9-ee29-5048-9b72-cc20ca16a21a", 9, 17),
    ("59addd3b-0d80-5148-b794-c44a842bd577", 10, 12),
)


ARN = "arn:aws:{}:eu-west-1:123456789012:shop__{}"
EMAIL, BILLING, ORDERS = ARN.format("sqs", "email"), ARN.format("sqs", "billing-dead"), ARN.format("sns", "orders")
STATEMENT = {
    "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": EMAIL,
    "Condition": {"ArnEquals": {"aws:SourceArn": [ORDERS]}},
}  # fmt: skip
#: The check of docs/cli.md.
CHECKED = CheckReport(
    (
        found(
            "policy-lacks-topic", EMAIL, f"The policy of queue 'email' does not allow {ORDERS}.",
            f"Add to the queue's policy: {json.dumps(STATEMENT)}",
        ),
        found(
            "dead-letters", BILLING, f"{BILLING} holds about 4 messages of queue 'billing'.",
            "celery -A shop hake dlq list billing",
        ),
    ),
    (
        Right("producer", "sns:Publish", ORDERS, "not denied"),
        Right("producer", "sqs:SendMessage", EMAIL, "not denied"),
        Right("producer", "sqs:GetQueueUrl", EMAIL, "allowed"),
    ),
    queues=10, topics=1, subscriptions=3,
)  # fmt: skip


def letter(task_id: str, order: int, age_s: float) -> DeadLetter:
    death = {
        "reason": "failed", "queue": "billing", "task": CHARGE, "time": "2026-11-23T01:53:55Z",
        "exception": "ValueError", "message": f"no card for order {order}", "worker": "billing@h", "retries": 0,
        "traceback": TRACEBACK,
    }  # fmt: skip
    headers = {
        "task": CHARGE, "id": task_id, "hake_deaths": [death],
        "hake_event": {"id": "58b185b9-636e-45c3-a03b-0119bde5ec11", "topic": "orders", "key": "placed"},
    }  # fmt: skip
    raw = {"MessageId": "5fbbe4de-1a8e-4f97-836e-d73cd3598701", "Attributes": {"SentTimestamp": "1000000000000"},
           "MessageAttributes": {"hake-death-reason": {"StringValue": "failed"}}}  # fmt: skip
    return DeadLetter("billing", raw, headers, {}, f"{{'order_id': {order}}}", 1_000_000_000 + age_s)


def shown(page: str) -> list[str]:
    """What the page shows that is printed."""
    return [block.code for block in blocks(DOCS / page, "", "text", "mermaid")]


def test_groups() -> None:
    assert groups_table(GROUPS) + "\n" in shown("cli.md")


def test_check() -> None:
    assert check_sheet(CHECKED) + "\n" in shown("cli.md")


def test_queues() -> None:
    celery = QueueInfo("celery", ready=120, in_flight=4, delayed=0, oldest_s=130)
    assert queues_table(sorted([*GROUPS, celery], key=lambda queue: queue.name)) + "\n" in shown("cli.md")


def test_plan() -> None:
    assert plan_lines(PLAN) + "\n" in shown("cli.md")


def test_graph() -> None:
    assert mermaid(GROUPS) in shown("cli.md")


def test_counts_of_dead_letters() -> None:
    counts = [{"group": group.name, "dead": group.dead, "dead_queue": group.dead_queue} for group in GROUPS]
    assert dead_counts_table(counts) + "\n" in shown("dead-letters.md")


def test_list_of_dead_letters() -> None:
    assert letters_table([letter(*one) for one in LETTERS]) + "\n" in shown("dead-letters.md")


def test_one_dead_letter() -> None:
    task_id, order, _ = LETTERS[0]
    assert letter_sheet(letter(task_id, order, 21)) + "\n" in shown("dead-letters.md")
