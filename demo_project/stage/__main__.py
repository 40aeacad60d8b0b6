"""``python -m stage``: the whole demo from start to clean-up. Exit code 0 only if every group ran every order once."""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kombu_hake.testing import EmbeddedAWS, embedded_aws
from stage.processes import Child, Children, Clock, Interrupted, StageError
from stage.report import Runs, faults, progress, table

PROJECT = Path(__file__).resolve().parents[1]
TAIL_LINES = 20
LINE_EVERY_S = 5.0


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    clock = Clock(options.timeout)
    logs = Path(tempfile.mkdtemp(prefix="hake-demo-logs-"))
    exit_code = 1
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hake-demo-") as state,
            embedded_aws() as aws,
            Children(PROJECT, logs) as children,
        ):
            try:
                exit_code = play(options.orders, aws, Path(state), children, clock)
            except StageError as error:
                say(f"\nFAILED: {error}")
            if exit_code:
                show_logs(children.all, logs)
    except Interrupted as interrupted:
        say(f"\n{interrupted}; cleaned up")
        exit_code = interrupted.exit_code
        shutil.rmtree(logs)
    if not exit_code:
        shutil.rmtree(logs)
    return exit_code


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stage", description=__doc__)
    parser.add_argument("--orders", type=positive, default=20, help="how many orders to place (default 20)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="give up after (default 120)")
    parser.add_argument("--check", action="store_true", help="headless, for CI (so far the only way)")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def play(wanted: int, aws: EmbeddedAWS, state: Path, children: Children, clock: Clock) -> int:
    """The demo itself; returns the exit code."""
    os.environ["HAKE_BROKER_URL"] = aws.url
    os.environ["SHOP_DATABASE"] = str(state / "shop.sqlite3")
    # A proxy of the house has no business between this machine and itself.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    groups = open_shop()
    say(f"embedded AWS at {aws.endpoint_url}")

    workers = [start_worker(children, group) for group in groups]
    clock.wait_until(lambda: all(is_ready(worker) for worker in workers), "workers ready")
    say(f"workers ready: {', '.join(groups)}")

    started = time.monotonic()
    storefront = children.start(
        "storefront",
        [sys.executable, "manage.py", "place_orders", str(wanted)],
        DJANGO_SETTINGS_MODULE="stage.storefront",
    )
    sqs = aws.client("sqs")
    line = ProgressLine()

    def finished() -> bool:
        if storefront.ended() and storefront.process.returncode != 0:
            raise StageError(f"the storefront ended with exit code {storefront.process.returncode}")
        for worker in workers:
            check_alive(worker)
        runs, orders = executions(), order_ids()
        line.show(progress(runs, groups, len(orders), wanted))
        complete = storefront.ended() and all(runs[order, group] for order in orders for group in groups)
        # Nothing waiting and nothing in flight: then no late duplicate can come either.
        return complete and all(is_empty(sqs, group) for group in groups)

    try:
        clock.wait_until(finished, "every order handled by every group")
    except StageError as error:
        say(f"\nFAILED: {error}")
    line.end()
    took_s = time.monotonic() - started
    # A worker that stops finishes what it has begun, so what is counted after that is final.
    if stubborn := children.stop(workers):
        say(f"FAILED: had to be killed: {', '.join(worker.name for worker in stubborn)}")
    return 1 if verdict(groups, wanted, took_s) or stubborn else 0


def open_shop() -> list[str]:
    """Set up Django in this process and make the database; returns the names of the groups."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    import django
    from django.conf import settings
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    return list(settings.GROUPS)


def start_worker(children: Children, group: str) -> Child:
    celery = [sys.executable, "-m", "celery", "-A", "shop", "worker"]
    return children.start(group, [*celery, "-Q", group, "-n", f"{group}@%h", "--concurrency", "1", "-l", "INFO"])


def is_ready(worker: Child) -> bool:
    """Whether it has said so in its log: by then its queue exists, is subscribed and is being read."""
    check_alive(worker)
    return re.search(rf"{worker.name}@\S+ ready\.", worker.log_text()) is not None


def check_alive(worker: Child) -> None:
    if worker.ended():
        raise StageError(f"the worker of {worker.name} ended with exit code {worker.process.returncode}")


def is_empty(sqs: Any, queue: str) -> bool:
    names = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return all(int(counts[name]) == 0 for name in names)


def executions() -> Runs:
    from orders.models import Execution

    return Counter(Execution.objects.values_list("order_id", "group"))


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
    return found


def show_logs(children: Sequence[Child], logs: Path) -> None:
    for child in children:
        say(f"--- {child.name}: {child.log}")
        say("\n".join(child.log_text().splitlines()[-TAIL_LINES:]))
    say(f"All logs are kept in {logs}")


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


if __name__ == "__main__":
    sys.exit(main())
