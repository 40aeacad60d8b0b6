"""The headless run: place orders, count who ran what. No page; the rating agency is down now and then all the same."""

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from celery import current_app

from kombu_hake.admin import Admin, connect
from show.stage.loopback import serve
from show.stage.partners import PARTNERS_VARIABLE, Partners
from show.stage.processes import Children, Clock, StageError
from show.stage.report import Runs, faults, progress, table
from show.stage.workers import Worker, Workers

LINE_EVERY_S = 5.0


def play(wanted: int, groups: Sequence[str], children: Children, clock: Clock) -> int:
    """Returns the exit code: 0 only if every group ran every order exactly once."""
    with serve(Partners(pace=0).answer) as partners_url:
        os.environ[PARTNERS_VARIABLE] = partners_url
        return _play(wanted, groups, children, clock)


def _play(wanted: int, groups: Sequence[str], children: Children, clock: Clock) -> int:
    workers = Workers(children, groups, concurrency=1)
    for group in groups:
        workers.start(group)
    everyone = list(workers.all)

    def ready() -> bool:
        workers.sweep(died)
        return all(worker.is_ready for worker in everyone)

    clock.wait_until(ready, "workers ready")
    say(f"workers ready: {', '.join(groups)}")
    started = time.monotonic()
    storefront = children.start("storefront", [sys.executable, "manage.py", "place_orders", str(wanted)])
    line = ProgressLine()

    def finished(broker: Admin) -> bool:
        if storefront.ended() and storefront.process.returncode != 0:
            raise StageError(f"the storefront ended with exit code {storefront.process.returncode}")
        workers.sweep(died)
        runs, orders = executions(), order_ids()
        line.show(progress(runs, groups, len(orders), wanted))
        complete = storefront.ended() and all(runs[order, group] for order in orders for group in groups)
        # Nothing waiting and nothing in flight: then no late duplicate can come either.
        return complete and is_empty(broker, groups)

    try:
        with connect(current_app) as broker:
            clock.wait_until(lambda: finished(broker), "every order handled by every group")
    except StageError as error:
        say(f"\nFAILED: {error}")
    line.end()
    took_s = time.monotonic() - started
    # A worker that stops finishes what it has begun, so what is counted after that is final.
    if stubborn := children.stop(worker.child for worker in everyone):
        say(f"FAILED: had to be killed: {', '.join(child.name for child in stubborn)}")
    return 1 if verdict(groups, wanted, took_s) or stubborn else 0


def died(worker: Worker) -> None:
    raise StageError(f"the worker {worker.name} ended with exit code {worker.child.process.returncode}")


def is_empty(broker: Admin, groups: Sequence[str]) -> bool:
    return all(not (group.ready or group.in_flight or group.delayed) for group in broker.groups(groups))


def executions() -> Runs:
    from show.models import Step

    steps = Step.objects.values_list("order_id", "group", "finished")
    return Counter({(order, group): finished for order, group, finished in steps if finished})


def order_ids() -> list[int]:
    from orders.models import Order

    return list(Order.objects.order_by("pk").values_list("pk", flat=True))


def verdict(groups: Sequence[str], wanted: int, took_s: float) -> list[str]:
    """Print the table and what it means; returns the faults."""
    runs, orders = executions(), order_ids()
    say(table(runs, orders, groups))
    found = faults(runs, orders, groups)
    if len(orders) != wanted:
        found.append(f"{len(orders)} orders were placed, not {wanted}")
    if found:
        say("FAILED:\n" + "\n".join(f"  {fault}" for fault in found))
    else:
        total = sum(runs.values())
        say(f"Every group ran every order exactly once: {wanted} x {len(groups)} = {total} runs in {took_s:.1f} s.")
        say(retried(groups))
    return found


def retried(groups: Sequence[str]) -> str:
    """How many orders were tried again, by group: partners are down now and then."""
    from show.models import Step

    again = Counter(Step.objects.filter(tries__gt=1).values_list("group", flat=True))
    return "Orders that were tried again: " + ", ".join(f"{group} {again[group]}" for group in groups) + "."


class ProgressLine:
    """One line that is written over; where the output is no terminal, a new line now and then."""

    def __init__(self) -> None:
        self._text = self._shown = ""
        self._shown_at = 0.0

    def show(self, text: str) -> None:
        self._text = text
        if text == self._shown:
            return
        if sys.stdout.isatty():
            sys.stdout.write("\r" + text.ljust(len(self._shown)))
            sys.stdout.flush()
            self._shown = text
        elif time.monotonic() - self._shown_at > LINE_EVERY_S:
            self.end()

    def end(self) -> None:
        say("" if sys.stdout.isatty() else self._text)
        self._shown, self._shown_at = self._text, time.monotonic()


def say(text: str) -> None:
    print(text, flush=True)
