"""What the tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model

from orders.models import Product
from shop.celery import app


@contextmanager
def handlers_in_place() -> Iterator[None]:
    """Run handlers when their event is published, in this thread; no broker is needed."""
    app.conf.task_always_eager = app.conf.task_eager_propagates = True
    try:
        yield
    finally:
        app.conf.task_always_eager = app.conf.task_eager_propagates = False


def product() -> Product:
    """One that the migrations have put on the shelves, or after a TransactionTestCase, a new one."""
    return Product.objects.first() or Product.objects.create(name="Smoked hake", price="12.50", stock=1000)


def customer(**fields: bool) -> Any:
    return get_user_model().objects.create_user("ahab", **fields)
