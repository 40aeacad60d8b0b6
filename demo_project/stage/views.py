"""The buttons for the processes, and what the page shows of them."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET, require_POST
from orders import board
from orders.models import Step
from orders.views import said, stream

from stage import control
from stage.loopback import Refused


@require_POST
def act(request: HttpRequest, group: str, action: str) -> HttpResponse:
    """Ask the stage to do something with the workers or the partner of a group."""
    try:
        return said(request, control.ask("/do", action=action, group=group)["said"])
    except Refused as refused:
        return said(request, refused.reason, status=refused.status)


@require_GET
def live(request: HttpRequest) -> HttpResponse:
    return stream(read)


def read() -> dict[str, Any]:
    """The shop's board and the stage's state; what a worker that is gone has left running is ``lost``."""
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
