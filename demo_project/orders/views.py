"""The page, its live data, and what its buttons do to the shop."""

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
from orders import board
from orders.models import Product
from orders.services import place_order, place_orders

LOOK_EVERY_S = 0.25
SIGN_OF_LIFE_EVERY_S = 10.0
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
def shop(request: HttpRequest) -> HttpResponse:
    groups = [{"name": name, "does": DOES.get(name, "")} for name in board.group_names()]
    shown = {"products": Product.objects.order_by("pk"), "groups": groups, "states": STATES}
    return render(request, "orders/shop.html", shown)


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
        # Committed, and not published. A shop that must not live with that stores its events in the same transaction.
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


@require_GET
def live(request: HttpRequest) -> HttpResponse:
    return stream(board.read)


def stream(read: Callable[[], dict[str, Any]]) -> HttpResponse:
    """Server-sent events: everything at once, and again whenever something has changed."""
    response = StreamingHttpResponse(_changes(read), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    return response


def _changes(read: Callable[[], dict[str, Any]]) -> Iterator[str]:
    sent, sent_at = "", 0.0
    while True:
        text = json.dumps(read())
        if text != sent:
            sent, sent_at = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - sent_at > SIGN_OF_LIFE_EVERY_S:
            sent_at = time.monotonic()
            yield ": still here\n\n"  # and if nobody reads it, the write fails and this ends
        time.sleep(LOOK_EVERY_S)


def said(request: HttpRequest, text: str, status: int = 200) -> HttpResponse:
    """The outcome of a button: JSON for the script, the page again without it."""
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"said": text}, status=status)
    return redirect("shop") if status < 400 else HttpResponse(text, status=status, content_type="text/plain")
