"""What the page shows: orders from the database, queues from the broker. Nothing is kept here but the last answer."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from celery import current_app
from django.db.models import Count

from kombu_hake import admin
from kombu_hake.exceptions import HakeError
from orders.models import Order, Product
from show.models import Group, Step

Answer = TypeVar("Answer")
SHOWN_ORDERS = 120


class Shared(Generic[Answer]):
    """An answer that all viewers share for a while, so that more viewers are not more questions.

    Args:
        in_background: Refresh in the background: only the first caller waits, others get the previous answer.
    """

    def __init__(self, ask: Callable[[], Answer], fresh_s: float, *, in_background: bool = False) -> None:
        self._ask, self._fresh_s, self._in_background = ask, fresh_s, in_background
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
        self._until = 0.0

    def __call__(self) -> Answer:
        with self._lock:
            if time.monotonic() >= self._until:
                if self._answers and self._in_background:
                    self._until = math.inf
                    threading.Thread(target=self._renew, daemon=True).start()
                else:
                    self._renew()
            return self._answers[-1]

    def _renew(self) -> None:
        try:
            self._answers = [self._ask()]
        finally:
            self._until = time.monotonic() + self._fresh_s


def group_names() -> list[str]:
    """The groups that orders/tasks.py has handlers for."""
    return admin.group_names(current_app)


def read_orders() -> dict[str, Any]:
    """The latest orders, newest first, each with the state of every group; and how many there are in each state.

    Returns:
        ``orders``: ``{"id", "product", "steps": {group: {"state", "tries", "error", "worker"}}}``, where a state is
        one of :class:`~show.models.Step.State`, ``queued`` where the group has not begun, or ``missed`` where the
        order was placed before the group had its first worker. ``total`` counts all orders, ``tallies`` the states of
        all of them by group, ``stock`` what is left of each product by its id.
    """
    names = group_names()
    joined = dict(Group.objects.values_list("name", "joined_at"))
    latest = list(Order.objects.select_related("product").prefetch_related("steps").order_by("-pk")[:SHOWN_ORDERS])
    return {
        "orders": [_order(order, names, joined) for order in latest],
        "total": Order.objects.count(),
        "tallies": _tallies(names, joined),
        "stock": dict(Product.objects.values_list("pk", "stock")),
    }


def _order(order: Order, names: Iterable[str], joined: dict[str, Any]) -> dict[str, Any]:
    begun = {
        step.group: {"state": step.state, "tries": step.tries, "error": step.error, "worker": step.worker}
        for step in order.steps.all()
    }
    waiting = {name: {"state": _before_it_began(order, joined.get(name)), "tries": 0} for name in names}
    return {"id": order.pk, "product": order.product.name, "steps": waiting | begun}


def _before_it_began(order: Order, joined_at: Any) -> str:
    return "queued" if joined_at is not None and joined_at <= order.placed_at else "missed"


def _tallies(names: Iterable[str], joined: dict[str, Any]) -> dict[str, dict[str, int]]:
    counted = Step.objects.values_list("group", "state").annotate(Count("pk"))
    tallies: dict[str, dict[str, int]] = {name: {} for name in names}
    for group, state, count in counted:
        tallies.setdefault(group, {})[state] = count
    for name in names:
        missing = Order.objects.exclude(steps__group=name)
        expected = missing.filter(placed_at__gte=joined[name]).count() if name in joined else 0
        tallies[name] |= {"queued": expected, "missed": missing.count() - expected}
    return tallies


def read_queues() -> dict[str, Any]:
    """``queues``: by group what the broker counts; ``trouble``: why it can't be asked, or ``""``."""
    try:
        with admin.connect(current_app) as broker:
            groups = broker.groups(group_names(), with_ages=False)
    except HakeError as exc:
        return {"queues": {}, "trouble": str(exc)}
    fields = ("state", "ready", "in_flight", "delayed", "dead")
    return {"queues": {group.name: {each: getattr(group, each) for each in fields} for group in groups}, "trouble": ""}


_orders, _queues = Shared(read_orders, 0.25), Shared(read_queues, 1.0, in_background=True)


def read() -> dict[str, Any]:
    """Everything, as JSON takes it."""
    return {**_orders(), **_queues()}
