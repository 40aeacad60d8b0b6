"""What metrics and traces cost: processor time of a task with and without them, side by side.

    .venv/bin/python benchmarks/telemetry_costs.py --rounds 9

Each round measures each case once, in turns there and back: Celery's ``.delay()``, then a prefork worker of two
processes that runs as many tasks. The environment of the project is used, because it has OpenTelemetry's SDK. All spans
are sampled. Node comes from ``.venv-bench`` (``make bench`` makes it).

off      the option ``telemetry`` is false
api      the default: OpenTelemetry's API is installed, and no SDK is configured
metrics  an SDK collects metrics
traces   an SDK collects metrics and all spans
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from bench.peers import Broker  # noqa: E402
from bench.scenarios import Run, child, queue_name  # noqa: E402
from bench.services import Services  # noqa: E402
from bench.worker import Worker  # noqa: E402

CASES = ("off", "api", "metrics", "traces")
PARTS = {"publish": "`.delay()`", "main": "worker's main process", "pool": "worker's children", "task": "a task in all"}


def measure(run: Run, case: str, count: int) -> dict[str, float]:
    """Processor time of a task in one case, microseconds by part."""
    published = child("delay", count, _broker(run, case), queue_name(), telemetry=case)
    queue = queue_name()
    child("fill", count, _broker(run, case, is_measured=False), queue, telemetry=case)
    with Worker(run.services, _broker(run, case), [queue], pool="prefork", multiplier=32, telemetry=case) as worker:
        ran = worker.measure(count)
    found = {"publish": published["own_us"], "main": ran["own_us"], "pool": ran["pool_us"]}
    return found | {"task": sum(found.values())}


def _broker(run: Run, case: str, *, is_measured: bool = True) -> Broker:
    broker = run.broker("hake", 0.0) if is_measured else run.side("hake")
    return replace(broker, options={**broker.options, "telemetry": case != "off"})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=5_000, help="tasks a measurement")
    arguments = parser.parse_args()
    rounds: list[dict[str, dict[str, float]]] = []
    with Services(0.0, []) as services:
        run = Run(services, is_quick=False, latency_s=0.0)
        for number in range(arguments.rounds):
            order = CASES if number % 2 == 0 else CASES[::-1]
            rounds.append({case: measure(run, case, arguments.count) for case in order})
            print(f"round {number + 1} of {arguments.rounds}: {_shown(rounds[-1])}", file=sys.stderr)
    print("| processor time, us | " + " | ".join(CASES) + " |")
    print("|---|" + "---|" * len(CASES))
    for part, name in PARTS.items():
        print(f"| {name} | " + " | ".join(_cell(rounds, case, part) for case in CASES) + " |")


def _shown(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {case: {part: round(value) for part, value in parts.items()} for case, parts in found.items()}


def _cell(rounds: list[dict[str, dict[str, float]]], case: str, part: str) -> str:
    """The median, and how much that is over ``off``: the median, the least and the most of the rounds."""
    value = statistics.median(found[case][part] for found in rounds)
    if case == "off":
        return f"{value:.0f}"
    more = sorted((found[case][part] / found["off"][part] - 1) * 100 for found in rounds)
    return f"{value:.0f} ({statistics.median(more):+.1f} %, {more[0]:+.1f} to {more[-1]:+.1f})"


if __name__ == "__main__":
    main()
