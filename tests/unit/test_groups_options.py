"""Every option of a task, on handlers made in each of Celery's ways: as the same task without a topic has it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task

from kombu_hake.groups.registry import registry
from kombu_hake.groups.topic import Topic

OPTIONS: dict[str, Any] = {
    "rate_limit": "3/m", "time_limit": 20, "soft_time_limit": 10, "acks_late": False, "max_retries": 7,
    "default_retry_delay": 3, "ignore_result": True, "serializer": "json", "compression": "gzip",
    "expires": 60, "track_started": True, "trail": False, "reject_on_worker_lost": True, "store_errors_even_if_ignored":
    True, "acks_on_failure_or_timeout": False, "send_events": False, "throws": (KeyError,), "typing": False,
    "autoretry_for": (ConnectionError,), "retry_backoff": 2, "retry_backoff_max": 30, "retry_jitter": False,
    "dont_autoretry_for": (ValueError,), "retry_kwargs": {"max_retries": 2}, "resultrepr_maxsize": 99,
}  # fmt: skip
RETRY_ONLY = {"retry_backoff", "retry_backoff_max", "retry_jitter", "dont_autoretry_for", "retry_kwargs"}


def nothing(**_payload: object) -> None:
    """A handler."""


def nothing_bound(self: Task, **_payload: object) -> None:
    """A bound one."""


class Base(Task):
    """Somebody's own base class."""

    greeting = "hello"


def of_app(app: Celery, options: dict[str, Any]) -> Task:
    return Topic("orders", app=app).on("placed", group="email", name="t", **options)(nothing)


def bound(app: Celery, options: dict[str, Any]) -> Task:
    return Topic("orders", app=app).on("placed", group="email", name="t", bind=True, **options)(nothing_bound)


def with_base(app: Celery, options: dict[str, Any]) -> Task:
    return Topic("orders", app=app).on("placed", group="email", name="t", base=Base, **options)(nothing)


def of_class(app: Celery, options: dict[str, Any]) -> Task:
    class Handler(Base):
        name = "t"

        def run(self, **_payload: object) -> None:
            """Nothing."""

    return Topic("orders", app=app).on("placed", group="email", **options)(Handler)


def of_a_task(app: Celery, options: dict[str, Any]) -> Task:
    task = app.task(name="t", shared=False, **options)(nothing)
    return Topic("orders", app=app).on("placed", group="email")(task)


WAYS = (of_app, bound, with_base, of_class, of_a_task)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("option", sorted(set(OPTIONS) - RETRY_ONLY))
def test_option_is_the_tasks(way: Any, option: str) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    way(app, {option: OPTIONS[option]})
    app.finalize()
    assert getattr(app.tasks["t"], option) == OPTIONS[option]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_all_options_together(way: Any) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    way(app, OPTIONS)
    app.finalize()
    task = app.tasks["t"]
    wrong = {name for name, value in OPTIONS.items() if name not in RETRY_ONLY and getattr(task, name) != value}
    assert wrong == set()
    assert "email" in app.amqp.queues


@pytest.mark.parametrize("way", [of_app, bound, with_base, of_class, of_a_task], ids=lambda way: way.__name__)
def test_autoretry_retries(way: Any) -> None:
    """Celery wraps the function for it, when the task is made."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    way(app, {"autoretry_for": (ConnectionError,), "retry_backoff": 2})
    app.finalize()
    assert hasattr(app.tasks["t"], "_orig_run")


def test_base_class_is_kept() -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    with_base(app, {})
    app.finalize()
    assert app.tasks["t"].greeting == "hello"


def test_shared_handler_is_in_every_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_shared", [])  # the apps of other tests do not get its queue
    orders = Topic("shared-orders")

    @orders.on("placed", group="shared-group", name="shared.handler", rate_limit="1/h")
    def handler(**_payload: object) -> None:
        """Nothing."""

    for _ in range(2):
        app = Celery("shop", broker="memory://", set_as_current=False)
        app.finalize()
        assert app.tasks["shared.handler"].rate_limit == "1/h"
        assert "shared-group" in app.amqp.queues
