"""The results as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .peers import LABELS
from .targets import TARGETS, Target, per_million_events_usd, per_million_tasks_usd, per_task

Results = dict[str, Any]
TITLES = {
    "publish": "publish, kombu Producer",
    "boto3": "publish, bare boto3",
    "delay": ".delay(), one thread",
    "delay_16": ".delay(), 16 threads",
    "batch": "publish in a batch",
    "delay_batch": ".delay() in a batch",
    "consume": "consume and ack",
    "prefork_32": "worker, prefork 2, multiplier 32",
    "prefork_4": "worker, prefork 2, multiplier 4",
    "threads_4": "worker, threads 2, multiplier 4",
    "solo_4": "worker, solo, multiplier 4",
    "fan_out_3": "fan-out to 3 groups",
    "fan_out_10": "fan-out to 10 groups",
    "latency_prefork": "idle worker, prefork",
    "latency_solo": "idle worker, solo",
    "start_up": "start-up",
    "idle": "idle",
    "long_run": "100,000 tasks, solo",
}
WHERE = {"near": "0 ms", "far": "10 ms"}


def text(results: Results) -> str:
    """Everything that is printed at the end of a run."""
    parts = [
        _rates(results),
        _latencies(results),
        _start_up(results),
        _idle(results),
        _cost(results),
        _targets(results),
    ]
    parts += [_notes(results)]
    return "\n\n".join(part for part in parts if part)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as needed; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rates(results: Results) -> str:
    header = ["messages, tasks or events", "latency", "peer", "per second", "to sqs", "requests each", "CPU s/100k"]
    rows = []
    for name, by_where in results["figures"].items():
        for where, by_peer in by_where.items():
            base = by_peer.get("sqs", {}).get("rate")
            for peer, figures in by_peer.items():
                if "rate" not in figures:
                    continue
                rows.append(
                    [
                        TITLES[name],
                        WHERE[where],
                        LABELS[peer],
                        f"{figures['rate']:,.0f}",
                        f"{figures['rate'] / base:.1f}x" if base else "",
                        f"{figures['per_message']:.2f}" if "per_message" in figures else "",
                        f"{figures['cpu_ms'] * 100:.0f}",
                    ]
                )
                rows[-1].append(f"{figures['peak_mb']:.0f}")
    return table([*header, "peak MiB"], rows) if rows else ""


def _latencies(results: Results) -> str:
    rows = [
        [TITLES[name], WHERE[where], LABELS[peer], f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}"]
        for name, by_where in results["figures"].items()
        for where, by_peer in by_where.items()
        for peer, figures in by_peer.items()
        if "p50_ms" in figures
    ]
    return table(["from .delay() to the task", "latency", "peer", "p50 ms", "p99 ms"], rows) if rows else ""


def _start_up(results: Results) -> str:
    by_peer = results["figures"].get("start_up", {}).get("far", {})
    columns = {
        "import ms": "import_ms",
        "first publish ms": "first_publish_new_ms",
        "again": "first_publish_again_ms",
        "worker, 50 queues s": "worker_new_s",
        "all polled s": "worker_new_polling_s",
        "requests": "worker_new_requests",
        "again s": "worker_again_s",
        "polled s": "worker_again_polling_s",
        "requests ": "worker_again_requests",
    }
    rows = [
        [LABELS[peer], *(_number(figures[key]) if key in figures else "" for key in columns.values())]
        for peer, figures in by_peer.items()
    ]
    return table(["start-up, 10 ms", *columns], rows) if rows else ""


def _number(value: float | None) -> str:
    if value is None:
        return "over 15"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _idle(results: Results) -> str:
    rows = [
        [
            LABELS[peer],
            f"{figures['polls_per_hour']:.0f}" if "polls_per_hour" in figures else "",
            f"{figures['other_per_hour']:.0f}" if "other_per_hour" in figures else "",
            f"{figures['cpu_percent']:.2f}",
        ]
        for peer, figures in results["figures"].get("idle", {}).get("far", {}).items()
    ]
    return table(["idle worker, per hour and queue", "polls", "others", "CPU %"], rows) if rows else ""


def _cost(results: Results) -> str:
    lines: dict[str, Callable[[str], tuple[float, float]]] = {
        "a task, published one by one": lambda peer: (per_task(results, peer), per_million_tasks_usd(results, peer)),
        "a task, published in batches": lambda peer: (
            per_task(results, peer, is_batched=True),
            per_million_tasks_usd(results, peer, is_batched=True),
        ),
        "an event to 3 groups": lambda peer: _event(results, peer, 3),
        "an event to 10 groups": lambda peer: _event(results, peer, 10),
    }
    rows = []
    for name, value in lines.items():
        for peer in ("hake", "sqs"):
            try:
                requests, dollars = value(peer)
            except KeyError:
                continue
            rows.append([name, LABELS[peer], f"{requests:.2f}", f"{dollars:.2f}"])
    return table(["requests and price", "peer", "requests", "USD per million"], rows) if rows else ""


def _event(results: Results, peer: str, groups: int) -> tuple[float, float]:
    requests = results["figures"][f"fan_out_{groups}"]["far"][peer]["per_message"]
    return requests, per_million_events_usd(results, peer, groups)


def _targets(results: Results) -> str:
    rows = []
    for target in TARGETS:
        try:
            value = target.value(results)
        except KeyError:
            continue
        rows.append(
            [
                target.name,
                target.wanted,
                f"{value:.2f} {target.unit}".strip(),
                _verdict(target, value),
            ]
        )
    return table(["target", "wanted", "measured", ""], rows) if rows else ""


def _verdict(target: Target, value: float) -> str:
    if target.wanted == "(stated)":
        return ""
    return "met" if target.is_met(value) else "NOT MET"


def _notes(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{settings['rounds']} round(s), {results['seconds']} s, {machine['processors']} processors,"
        f" Python {machine['python']}; {versions}",
    ]
    loads = [
        (figures["proxy_load"], f"{TITLES[name]}, {WHERE[where]}, {LABELS[peer]}")
        for name, by_where in results["figures"].items()
        for where, by_peer in by_where.items()
        for peer, figures in by_peer.items()
        if "proxy_load" in figures
    ]
    if loads:
        load, what = max(loads)
        lines.append(f"the proxy used at most {load:.0%} of a processor ({what})")
    lines += [f"absent: {peer}: {reason}" for peer, reason in results["missing"].items()]
    lines += [f"FAILED: {label}: {reason}" for label, reason in results["failures"].items()]
    return "\n".join(lines)
