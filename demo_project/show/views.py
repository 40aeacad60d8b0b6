"""The page, its live data, and its buttons: those for the shop, and those for the processes.

There is no login: the server listens on the loopback interface, and the show is over when its program ends.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

from celery import current_app
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError

from kombu_hake import admin
from kombu_hake.exceptions import HakeError, QueueNotFound
from orders.models import Product
from orders.services import place_order, place_orders
from show import board
from show.models import Step
from show.stage import control
from show.stage.loopback import Refused

LOOK_EVERY_S = 0.25
HEARTBEAT_EVERY_S = 10.0
MOST_AT_ONCE = 100
STATES = [
    ("queued", "queued"),
    ("running", "running"),
    ("retrying", "will be tried again"),
    ("done", "done"),
    ("failed", "failed"),
    ("lost", "worker lost"),
    ("missed", "placed before the group was there"),
]
DOES = {
    "email": "sends the receipt",
    "inventory": "reserves the stock",
    "analytics": "counts the revenue",
    "fraud": "rates the risk",
}


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    groups = [{"name": name, "does": DOES.get(name, "")} for name in board.group_names()]
    shown = {"products": Product.objects.order_by("pk"), "groups": groups, "states": STATES}
    return render(request, "show/page.html", shown)


@require_POST
def place(request: HttpRequest) -> HttpResponse:
    """One order of a product, or (``count``) many of all products in turn."""
    count = request.POST.get("count", "1")
    if not count.isdecimal() or not 1 <= int(count) <= MOST_AT_ONCE:
        return said(request, f"Between 1 and {MOST_AT_ONCE} orders, please.", status=400)
    try:
        if int(count) > 1:
            placed = place_orders(islice(cycle(Product.objects.order_by("pk")), int(count)))
            return said(request, f"{len(placed)} orders placed.")
        wanted = request.POST.get("product", "")
        product = get_object_or_404(Product, pk=int(wanted) if wanted.isdecimal() else None)
        order = place_order(product)
    except OperationalError as exc:
        return said(request, f"Stored, but no group was told: {exc}", status=502)
    return said(request, f"Order {order.pk} placed: {product}.")


@require_POST
def send_back(request: HttpRequest, group: str) -> HttpResponse:
    """Requeue the dead letters of one group."""
    try:
        with admin.connect(current_app) as broker:
            outcome = broker.requeue(group)
    except QueueNotFound:
        return said(request, f"{group} has no dead letters.")
    except HakeError as exc:
        return said(request, str(exc), status=502)
    text = f"{outcome.done} of {outcome.matched} dead letters sent back to {group}."
    return said(request, " ".join([text, *outcome.failures[:1]]))


@require_POST
def act(request: HttpRequest, group: str, action: str) -> HttpResponse:
    """Ask the stage to do something with the workers or the partner of a group."""
    try:
        return said(request, control.ask("/do", action=action, group=group)["said"])
    except Refused as refused:
        return said(request, refused.reason, status=refused.status)


@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """Server-sent events: the whole state first, and again whenever something has changed."""
    response = StreamingHttpResponse(_changes(read), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    return response


def read() -> dict[str, Any]:
    """The board and the stage's state; what a worker that is gone has left running is ``lost``."""
    shown = board.read()
    try:
        stage = control.ask("/state")
    except Refused as refused:
        return shown | {"trouble": refused.reason}
    alive = {worker["name"] for group in stage["groups"].values() for worker in group["workers"]}
    orders = [
        order | {"steps": {group: _lost(step, alive) for group, step in order["steps"].items()}}
        for order in shown["orders"]
    ]
    tallies = {group: _with_lost(tally, group, orders) for group, tally in shown["tallies"].items()}
    return shown | {"orders": orders, "tallies": tallies, "stage": stage}


def _with_lost(tally: dict[str, int], group: str, orders: list[dict[str, Any]]) -> dict[str, int]:
    """A tally that tells the lost from the running. They are among the latest orders: others had the time to end."""
    lost = sum(order["steps"][group]["state"] == "lost" for order in orders)
    return tally | {"running": tally.get(Step.State.RUNNING, 0) - lost, "lost": lost}


def _lost(step: dict[str, Any], alive: set[str]) -> dict[str, Any]:
    is_lost = step["state"] == Step.State.RUNNING and step["worker"].partition("@")[0] not in alive
    return step | {"state": "lost"} if is_lost else step


def _changes(read: Callable[[], dict[str, Any]]) -> Iterator[str]:
    sent, sent_at = "", 0.0
    while True:
        text = json.dumps(read())
        if text != sent:
            sent, sent_at = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - sent_at > HEARTBEAT_EVERY_S:
            sent_at = time.monotonic()
            yield ": still here\n\n"  # if the viewer has left, the write fails and this ends
        time.sleep(LOOK_EVERY_S)


def said(request: HttpRequest, text: str, status: int = 200) -> HttpResponse:
    """The outcome of a button: JSON for the script, the page again without it."""
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"said": text}, status=status)
    return redirect("show") if status < 400 else HttpResponse(text, status=status, content_type="text/plain")
