"""Plan, rounds, results: the command line of the benchmark.

Peers take turns within each scenario and scenarios within each round, so that a slow spell of the machine meets all of
them. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import plot, report, tools
from .peers import NAMES
from .scenarios import PLAN, Item, Run
from .services import Services

RESULTS = tools.ROOT / "benchmarks" / "results"
LATENCY_S = 0.01
FULL_ROUNDS = 3

Key = tuple[str, str, str]  # scenario, "near" or "far", peer


def main() -> None:
    """Run what the command line asks for; exits with 1 when a scenario failed."""
    options = _parser().parse_args()
    names = options.only or [name for name, item in PLAN.items() if item.is_quick or not options.quick]
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    started_at = time.monotonic()
    with Services(LATENCY_S, [peer for peer in ("redis", "rabbitmq") if peer in options.peers]) as services:
        for peer, reason in services.missing.items():
            print(f"bench: {peer} is absent: {reason}", file=sys.stderr)
        peers = [peer for peer in options.peers if peer not in services.missing]
        samples, failures = _run_all(Run(services, options.quick, LATENCY_S), names, peers, rounds)
        missing = dict(services.missing)
    results = {
        "machine": _machine(),
        "settings": {"quick": options.quick, "rounds": rounds, "latency_s": LATENCY_S, "scenarios": names},
        "seconds": round(time.monotonic() - started_at),
        "missing": missing,
        "failures": failures,
        "figures": _nested({key: merge(figures) for key, figures in samples.items()}),
        "samples": _nested(samples),
    }
    json_file, svg_file = save(results)
    print(report.text(results))
    print(f"\n{json_file}\n{svg_file}")
    sys.exit(1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Compare this transport with its peers.")
    parser.add_argument("--quick", action="store_true", help="one round, small loads: a few minutes")
    parser.add_argument("--only", type=_names_of(PLAN), help=f"scenarios, comma separated: {', '.join(PLAN)}")
    parser.add_argument("--peers", type=_names_of(NAMES), default=list(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help=f"default {FULL_ROUNDS}, quick 1")
    return parser


def _names_of(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(known)}")
        return names

    return parse


def _run_all(
    run: Run, names: list[str], peers: list[str], rounds: int
) -> tuple[dict[Key, list[dict[str, Any]]], dict[str, str]]:
    samples: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    failures: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for name in names:
            item = PLAN[name]
            taking_part = [peer for peer in item.peers if peer in peers or peer == "boto3"]
            if number > 1 and not item.is_repeated:
                continue
            for where in item.where:
                _run_item(run, (name, where), item, taking_part, samples, failures, f"{number}/{rounds}")
    return samples, failures


def _run_item(
    run: Run, what: tuple[str, str], item: Item, peers: list[str], samples: Any, failures: dict[str, str], progress: str
) -> None:
    latency_s = run.latency_s if what[1] == "far" else 0.0

    def measure(peer: str) -> None:
        label = f"{what[0]} {what[1]} {peer}"
        started_at = time.monotonic()
        try:
            samples[(*what, peer)].append(item.action(run, peer, latency_s))
        except Exception as error:  # one peer's failure must not end the comparison; it is shown in the report
            failures[label] = str(error) or repr(error)
        outcome = "FAILED" if label in failures else "ok"
        print(
            f"bench: [{progress}] {label}: {outcome}, {time.monotonic() - started_at:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    if item.is_parallel:
        with ThreadPoolExecutor(len(peers) or 1) as pool:
            list(pool.map(measure, peers))
    else:
        for peer in peers:
            measure(peer)


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
    for package in ("kombu", "celery", "boto3", "botocore", "redis", "amqp", "kombu-hake"):
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
