"""Plan, rounds, results: the command line of the benchmark.

Peers take turns within each scenario and scenarios within each round, there in one round and back in the next, so that
a slow spell of the machine meets all of them. Figures are medians over the rounds; ratios are taken within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import baselines, pairs, plot, report, tools
from .peers import NAMES, OF_ANOTHER_ENVIRONMENT
from .scenarios import FEW_ROUNDS, IN_FEW_ROUNDS, PLAN, SERVERS, Run
from .services import Services

RESULTS = tools.ROOT / "benchmarks" / "results"
LATENCY_S = 0.01
FULL_ROUNDS = 3
BACKGROUND_START_S = 8.0
BUDGET_S = 55 * 60.0

Key = tuple[str, str, str]  # scenario, "near" or "far", peer


def main() -> None:
    """Run what the command line asks for; exits with 1 when a scenario failed."""
    options = _parser().parse_args()
    names = options.only or [name for name, item in PLAN.items() if item.quick_peers or not options.quick]
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    is_tls = any(PLAN[name].is_tls for name in names)
    started_at = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-baselines-")))
        packages = dict(baselines.find(wanted, folder) for wanted in options.baseline)
        brokers = [peer for peer in SERVERS if peer in options.peers]
        services = stack.enter_context(Services(LATENCY_S, brokers, is_tls=is_tls))
        missing = dict(services.missing)
        if not tools.has_other_venv():
            missing |= dict.fromkeys(OF_ANOTHER_ENVIRONMENT & set(options.peers), "could not be installed")
        for peer, reason in missing.items():
            print(f"bench: {peer} is absent: {reason}", file=sys.stderr)
        run = Run(services, options.quick, LATENCY_S, packages)
        done = Rounds(run, _in_turn(options.peers, packages), missing, rounds, None if options.rounds else BUDGET_S)
        try:
            done.run(names)
        except KeyboardInterrupt:
            print("bench: interrupted; the report is of what was measured", file=sys.stderr)
    results = {
        "machine": _machine(),
        "settings": {
            "quick": options.quick,
            "rounds": done.done_count,
            "latency_s": LATENCY_S,
            "scenarios": names,
            "baselines": list(packages),
        },
        "seconds": round(time.monotonic() - started_at),
        "missing": missing,
        "failures": done.failures,
        "figures": _nested({key: merge(figures) for key, figures in done.samples.items()}),
        "samples": _nested(done.samples),
    }
    json_file, svg_file = save(results)
    print(report.text(results))
    print(f"\n{json_file}\n{svg_file}")
    sys.exit(1 if done.failures else 0)


def _in_turn(peers: list[str], packages: dict[str, Path]) -> list[str]:
    """Names in the order of ``NAMES``, baselines before ``hake``."""
    wanted = [peer for peer in NAMES if peer in peers]
    at = wanted.index("hake") if "hake" in wanted else 0
    return [*wanted[:at], *packages, *wanted[at:]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Compare this transport with its peers.")
    parser.add_argument("--quick", action="store_true", help="one round, small loads: a few minutes")
    parser.add_argument("--only", type=_names_of(PLAN), help=f"scenarios, comma separated: {', '.join(PLAN)}")
    parser.add_argument("--peers", type=_names_of(NAMES), default=list(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help=f"default {FULL_ROUNDS} (fewer on a slow machine), quick 1")
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="REVISION|PATH|NAME=PATH",
        help="another version of the package as a peer; may be given more than once, targets look at the first",
    )
    return parser


def _names_of(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(known)}")
        return names

    return parse


class Rounds:
    """Runs the plan and keeps what comes out.

    Args:
        peers: In the order of their turns.
        missing: What is absent, by name; ``tls`` is one.
        count: Rounds wanted.
        budget_s: No round begins that would end later than this, going by the first one; None: no limit.
    Attributes:
        done_count: Rounds done.
        samples: Figures of each round, by scenario, place and peer.
        failures: Reason by what failed; one peer's failure does not end the comparison.
    """

    def __init__(self, run: Run, peers: list[str], missing: dict[str, str], count: int, budget_s: float | None) -> None:
        self._run = run
        self._peers = [peer for peer in peers if peer not in missing]
        self._missing = missing
        self._count = count
        self._budget_s = budget_s
        self._started_at = time.monotonic()
        self._repeated_s = 0.0
        self.done_count = 0
        self.samples: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        self.failures: dict[str, str] = {}

    def run(self, names: list[str]) -> None:
        """All rounds of these scenarios; those in the background go on beside the others."""
        behind = [name for name in names if PLAN[name].is_background]
        with ThreadPoolExecutor(len(self._peers) * len(behind) or 1) as pool:
            waiting = [pool.submit(self._measure, *one) for name in behind for one in self._of(name, "background")]
            if behind:
                time.sleep(BACKGROUND_START_S)
            before = [name for name in names if name not in behind]
            while self.done_count < self._count and self._has_time():
                self._round([name for name in before if self.done_count == 0 or PLAN[name].is_repeated])
            for each in waiting:
                each.result()

    def _has_time(self) -> bool:
        """Whether a round as long as the repeated part of the first still fits."""
        elapsed_s = time.monotonic() - self._started_at
        return self._budget_s is None or elapsed_s + self._repeated_s < self._budget_s

    def _round(self, names: list[str]) -> None:
        for name in names:
            began_at = time.monotonic()
            for one in self._of(name, f"{self.done_count + 1}/{self._count}"):
                self._measure(*one)
            if self.done_count == 0 and PLAN[name].is_repeated:
                self._repeated_s += time.monotonic() - began_at
        self.done_count += 1

    def _of(self, name: str, progress: str) -> list[tuple[Key, str]]:
        item, is_quick = PLAN[name], self._run.is_quick
        if item.is_tls and "tls" in self._missing:
            return []
        among = item.quick_peers if is_quick and item.quick_peers else item.peers
        places = [where for where in item.where if not is_quick or where in item.quick_where]
        peers = [peer for peer in self._peers if peer in among or (peer in self._run.packages and item.has_baseline)]
        if self.done_count >= FEW_ROUNDS:
            peers = [peer for peer in peers if peer not in IN_FEW_ROUNDS]
        return [((name, where, peer), progress) for where in places for peer in pairs.order(peers, self.done_count)]

    def _measure(self, key: Key, progress: str) -> None:
        name, where, peer = key
        started_at, outcome = time.monotonic(), "ok"
        try:
            figures = PLAN[name].action(self._run, peer, self._run.latency_s if where == "far" else 0.0)
            self.samples[key].append({"round": self.done_count, **figures})
        except Exception as error:  # shown in the report
            self.failures[" ".join(key)] = str(error) or repr(error)
            outcome = "FAILED"
        seconds = time.monotonic() - started_at
        print(f"bench: [{progress}] {' '.join(key)}: {outcome}, {seconds:.1f} s", file=sys.stderr, flush=True)


def merge(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """One set of figures from several rounds: medians of numbers, the last of anything else."""
    merged: dict[str, Any] = {}
    for name, last in (samples[-1] if samples else {}).items():
        values = [sample[name] for sample in samples if name in sample]
        is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        merged[name] = statistics.median(values) if is_number else last
    return merged


def _nested(flat: dict[Key, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (name, where, peer), value in flat.items():
        tree.setdefault(name, {}).setdefault(where, {})[peer] = value
    return tree


def _machine() -> dict[str, Any]:
    versions = {}
    for package in ("kombu", "celery", "boto3", "botocore", "redis", "amqp"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def save(results: dict[str, Any]) -> tuple[Path, Path]:
    """Write the JSON and the plot, under a name with the time and as ``latest``."""
    RESULTS.mkdir(exist_ok=True)
    stem = results["machine"]["at"].replace(":", "").replace("+0000", "Z")
    written = []
    for suffix, content in (("json", json.dumps(results, indent=1)), ("svg", plot.svg(results))):
        for name in (stem, "latest"):
            (RESULTS / f"{name}.{suffix}").write_text(content)
        written.append(RESULTS / f"{stem}.{suffix}")
    return written[0], written[1]


if __name__ == "__main__":
    main()
