"""``python -m show``: the demo from start to clean-up."""

import argparse
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from show.stage import broker, check, play
from show.stage.loopback import HOST
from show.stage.processes import Child, Children, Clock, Interrupted, StageError

PROJECT = Path(__file__).resolve().parents[1]
TAIL_LINES = 20
CHECK_ORDERS = 20
CHECK_TIMEOUT_S = 120.0
#: How long the messages of a killed worker stay hidden in the demo. Short, so that viewers do not wait.
SHOW_LEASE_S = 10


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    clock = Clock(options.timeout)
    exit_code = 1
    with ExitStack() as doors:
        # The port is taken before anything is started, so that no address is printed that is another's.
        listening = None if options.check else doors.enter_context(listen(options.port))
        logs = Path(tempfile.mkdtemp(prefix="hake-demo-logs-"))
        try:
            exit_code = run(options, clock, logs, listening)
        except StageError as error:
            say(f"\nFAILED: {error}")
        except Interrupted as interrupted:
            say(f"\n{interrupted}; cleaned up")
            exit_code = interrupted.exit_code if options.check else 0
            shutil.rmtree(logs)
            return exit_code
        if not exit_code or not any(logs.iterdir()):
            shutil.rmtree(logs)
    return exit_code


def run(options: argparse.Namespace, clock: Clock, logs: Path, listening: socket.socket | None) -> int:
    """Everything between start and clean-up; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="hake-demo-") as state:
        # What a process that is killed leaves behind, it leaves in here.
        os.environ["TMPDIR"] = state
        os.environ["DJANGO_SETTINGS_MODULE"] = "show.settings"
        os.environ["SHOP_SECRET_KEY"] = secrets.token_urlsafe()
        os.environ["SHOP_DATABASE"] = str(Path(state) / "shop.sqlite3")
        # A proxy of the house has no business between this machine and itself.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"{HOST},localhost"
        with broker.messages(options.broker, None if options.check else SHOW_LEASE_S) as url:
            groups = open_shop()
            broker.check_that_it_answers()
            say(f"embedded AWS at {HOST}" if options.broker is None else f"messages go to {broker.shown(url)}")
            with Children(PROJECT, logs) as children:
                try:
                    if listening is None:
                        return check.play(options.orders, groups, children, clock)
                    play.play(options, groups, broker.lease_s(url), listening, children, clock)
                except StageError as error:
                    say(f"\nFAILED: {error}")
                    show_logs(children.all, logs)
                return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m show", description="Run the demo shop with its page until Ctrl-C, or check it without the page."
    )
    parser.add_argument("--check", action="store_true", help="no page: place orders, print who ran what, and end")
    parser.add_argument(
        "--orders", type=count, metavar="N", help=f"place so many at the start (default 0; {CHECK_ORDERS} with --check)"
    )
    parser.add_argument(
        "--broker", type=broker.broker_url, metavar="URL", help="a hake:// URL instead of the embedded AWS"
    )
    parser.add_argument("--port", type=port, help="of the page; a free one where none is given")
    parser.add_argument("--pace", type=pace, help="how long the work takes: 1 is for watching (default), 0.1 is fast")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help=f"with --check: give up after (default {CHECK_TIMEOUT_S:g})"
    )
    options = parser.parse_args(argv)
    if options.check:
        for name in ("port", "pace"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} configures the page, which --check does not use")
    elif options.timeout is not None:
        parser.error("--timeout goes with --check; the page stays until Ctrl-C")
    if options.orders is None:
        options.orders = CHECK_ORDERS if options.check else 0
    if options.check and not options.orders:
        parser.error("--check needs at least 1 order")
    if options.timeout is None:
        options.timeout = CHECK_TIMEOUT_S if options.check else math.inf
    options.port = options.port or 0
    options.pace = 1.0 if options.pace is None else options.pace
    return options


def count(text: str) -> int:
    return _whole(text, 0, 1000)


def port(text: str) -> int:
    return _whole(text, 1, 65535)


def pace(text: str) -> float:
    return _number(text, 0, 100)


def seconds(text: str) -> float:
    return _number(text, 0.1, 86400)


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def _number(text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
    return number


def listen(wanted: int) -> socket.socket:
    """A listening socket on the loopback interface; ends the program if the port is taken."""
    try:
        return socket.create_server((HOST, wanted))
    except OSError as exc:
        sys.exit(f"port {wanted} of {HOST} can't be had ({exc.strerror}): give another --port, or none")


def open_shop() -> list[str]:
    """Set up Django in this process and make the database; returns the names of the groups."""
    import django
    from django.core.management import call_command

    os.environ["SHOP_LOG_LEVEL"] = "WARNING"  # in this terminal; the settings read it once
    django.setup()
    del os.environ["SHOP_LOG_LEVEL"]  # workers and the web server log to files, which tell when they are ready
    call_command("migrate", verbosity=0)
    from show.board import group_names

    return group_names()


def show_logs(children: Sequence[Child], logs: Path) -> None:
    for child in children:
        say(f"--- {child.name}: {child.log}")
        say("\n".join(child.log_text().splitlines()[-TAIL_LINES:]))
    say(f"All logs are kept in {logs}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
