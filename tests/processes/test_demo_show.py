"""The page of the show, without its processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.demo import DEMO_PROJECT

from kombu_hake.testing import EmbeddedAWS

PREPARE = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.conf import settings
from django.test import Client
settings.ALLOWED_HOSTS.append("testserver")
from orders.models import Order, Product
from show import board
from show.models import Group
"""


@pytest.fixture
def in_show(hake_aws: EmbeddedAWS, tmp_path: Path):
    """Runs lines of Python in a process of its own, with the show's settings."""

    def run(code: str, broker: str = hake_aws.in_namespace("shop").url) -> None:
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "show.settings",
            "SHOP_BROKER_URL": broker,
            "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
            "SHOP_SECRET_KEY": "of this test",
        }
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + textwrap.dedent(code)],
            cwd=DEMO_PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    hake_aws.reset()
    yield run
    hake_aws.reset()


def test_every_button_asks_for_a_token(in_show) -> None:
    in_show("""
        strict = Client(enforce_csrf_checks=True)
        shown = strict.get("/")
        assert shown.status_code == 200
        assert b"Requeue" in shown.content and b"Kill" in shown.content and b"Start worker" in shown.content
        for path in ("/orders", "/groups/email/send-back", "/stage/email/kill"):
            assert strict.post(path, {"product": 1}).status_code == 403, path
            assert strict.get(path).status_code == 405, path
        token = strict.cookies["csrftoken"].value
        assert strict.post("/orders", {"product": 1, "csrfmiddlewaretoken": token}).status_code == 302
        assert Order.objects.count() == 1
    """)


def test_a_wrong_form_places_nothing(in_show) -> None:
    in_show("""
        client = Client(headers={"Accept": "application/json"})
        for count in ("0", "101", "many"):
            answer = client.post("/orders", {"count": count})
            assert answer.status_code == 400 and answer.json()["said"] == "Between 1 and 100 orders, please."
        for form in ({"product": "77"}, {"product": "9" * 30}, {"product": "teapot"}, {}):
            assert client.post("/orders", form).status_code == 404, form
        assert not Order.objects.exists()
    """)


def test_a_broker_that_does_not_answer_is_said_and_the_orders_still_shown(in_show) -> None:
    in_show(
        """
        settings.CELERY_TASK_PUBLISH_RETRY = False
        client = Client(headers={"Accept": "application/json"})
        answer = client.post("/orders", {"product": 1})
        assert answer.status_code == 502 and "Stored, but no group was told" in answer.json()["said"], answer.content
        assert client.post("/groups/email/send-back").status_code == 502
        shown = board.read()
        assert shown["trouble"] and shown["queues"] == {} and len(shown["orders"]) == 1
        """,
        "hake://k:s@127.0.0.1:9?region=eu-west-1&max_attempts=1&connect_timeout=1",
    )


def test_an_order_from_before_a_group_was_there_is_not_its(in_show) -> None:
    in_show("""
        product = Product.objects.first()
        early = Order.objects.create(product=product)
        Group.objects.create(name="email")
        late = Order.objects.create(product=product)
        shown = board.read_orders()
        states = {order["id"]: order["steps"]["email"]["state"] for order in shown["orders"]}
        assert states == {early.pk: "missed", late.pk: "queued"}
        assert shown["tallies"]["email"] == {"missed": 1, "queued": 1}
        assert shown["tallies"]["fraud"] == {"missed": 2, "queued": 0}
    """)
