"""Django's settings for tests in this process, which can be made once; and a Celery app for a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import django
from celery import Celery, _state
from django.conf import settings
from kombu.transport.memory import Channel

BACKEND = "kombu_hake.contrib.django.CeleryBackend"


def configure() -> None:
    """Idempotent."""
    if settings.configured:
        return
    settings.configure(
        INSTALLED_APPS=["kombu_hake.contrib.django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        LOGGING_CONFIG=None,
        USE_TZ=True,
        TASKS={
            "default": {"BACKEND": BACKEND, "QUEUES": ["default", "emails"]},
            "any": {"BACKEND": BACKEND, "QUEUES": []},
            "here": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
        },
    )
    django.setup()


@contextmanager
def celery_app(
    broker: str | None = "memory://", backend: str | None = "cache+memory://", **conf: Any
) -> Iterator[Celery]:
    """A Celery app that is the current one, in all threads, with a default queue of its own."""
    before = _state.default_app, _state._tls.current_app
    app = Celery("shop", broker=broker, backend=backend)
    app.set_default()
    app.conf.update({"task_default_queue": uuid4().hex} | conf)
    try:
        yield app
    finally:
        app.close()
        Channel.queues.clear()  # of memory://
        _state.set_default_app(before[0])
        _state._set_current_app(before[1])
