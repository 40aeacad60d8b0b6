"""What remote control and events cost: the requests of one idle worker, counted by the proxy.

    python benchmarks/control_costs.py --minutes 6

Each case is a worker of its own (prefork, one queue, on moto through the counting proxy), all at the same time. The
first two minutes are not counted: workers and monitors are starting. Requests of who watches are counted with those
of the worker, through one proxy. Printed as a Markdown table, an hour's worth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.celery_workers import Stage, stage  # noqa: E402
from support.emulators import Emulator, free_port, run_moto  # noqa: E402
from support.proxy import Proxy  # noqa: E402

WARM_UP_S = 120.0
_CELERY = [sys.executable, "-m", "celery", "-A", "apps.plain"]
_FLOWER = [*_CELERY, "flower", "--address=127.0.0.1"]
_QUIET = ["--without-gossip", "--without-mingle"]
#: What is shown: options of the worker, settings, and who watches.
CASES: dict[str, tuple[list[str], list[str]]] = {
    "tasks alone: no remote control, `--without-heartbeat`": (["--without-heartbeat", "no-control"], []),
    "no remote control": (["no-control"], []),
    "remote control, nobody listens to events (the default)": ([], []),
    "the same with `-E`": (["-E"], []),
    "`celery events --dump` runs": (["-E"], [*_CELERY, "events", "--dump"]),
    "Flower is open": (["-E"], [*_FLOWER]),
    "Flower is open with `--enable-events=False`": (["-E"], [*_FLOWER, "--enable-events=False"]),
}


class Case:
    """One worker, who watches it, and the proxy that counts."""

    def __init__(self, name: str, moto: Emulator, folder: Path, stack: ExitStack) -> None:
        self.name = name
        options, watcher = CASES[name]
        self._proxy = stack.enter_context(Proxy(moto.endpoint_url))
        aws = replace(moto, port=urlsplit(self._proxy.endpoint_url).port or 0)
        folder.mkdir()
        on_stage: Stage = stack.enter_context(stage(aws.url(f"c{uuid4().hex[:8]}"), folder))
        without_control = {"WITHOUT_CONTROL": "1"} if "no-control" in options else {}
        flags = [option for option in options if option.startswith("-")]
        on_stage.start("apps.plain", "-P", "prefork", "-c", "1", *_QUIET, *flags, environment=without_control)
        if watcher:
            if "flower" in watcher:
                watcher = [*watcher, f"--port={free_port()}"]
            output = stack.enter_context((folder / "watcher.log").open("wb"))
            process = subprocess.Popen(
                watcher, cwd=folder, env=on_stage.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

    def reset(self) -> None:
        self._proxy.reset_stats()

    def per_hour(self, seconds: float) -> dict[str, float]:
        """Requests of an hour by action."""
        requests: dict[str, int] = self._proxy.stats()["requests"]
        return {action: count * 3600 / seconds for action, count in requests.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="how long to count")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        moto = stack.enter_context(run_moto())
        cases = [Case(name, moto, folder / str(number), stack) for number, name in enumerate(CASES)]
        time.sleep(WARM_UP_S)
        for case in cases:
            case.reset()
        started = time.monotonic()
        time.sleep(options.minutes * 60)
        seconds = time.monotonic() - started
        print("| an idle worker | requests an hour | of these |\n|---|---|---|")
        for case in cases:
            found = sorted(case.per_hour(seconds).items(), key=lambda item: -item[1])
            each = ", ".join(f"{action} {count:.0f}" for action, count in found)
            print(f"| {case.name} | {sum(count for _, count in found):.0f} | {each} |")


if __name__ == "__main__":
    main()
