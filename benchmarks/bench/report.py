"""The results as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import pairs
from .peers import OF_ANOTHER_ENVIRONMENT, label, rank
from .targets import TARGETS, per_million_events_usd, per_million_tasks_usd, per_task

Results = dict[str, Any]
TITLES = {
    "wire": "receive 10 and delete 10",
    "publish": "publish to a queue",
    "publish_exchange": "publish to an exchange",
    "batch": "to a queue in a batch",
    "batch_exchange": "to an exchange in a batch",
    "delay": ".delay(), one thread",
    "delay_16": ".delay(), 16 threads",
    "delay_batch": ".delay() in a batch",
    "consume": "consume and ack",
    "prefork_32": "worker, prefork 2, multiplier 32",
    "prefork_4": "worker, prefork 2, multiplier 4",
    "threads_32": "worker, threads 2, multiplier 32",
    "solo_32": "worker, solo, multiplier 32",
    "fan_out_3": "fan-out to 3 groups",
    "fan_out_10": "fan-out to 10 groups",
    "publish_tls": "publish to a queue, TLS",
    "consume_tls": "consume and ack, TLS",
    "prefork_32_tls": "worker, prefork 2, TLS",
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
        _pairs(results),
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
    header = ["messages, tasks or events", "latency", "peer", "per second", "requests each"]
    header += ["CPU us each", "main thread", "threads", "pool", "server", "peak MiB"]
    rows = []
    for name, where, peer, figures in _each(results):
        if "rate" not in figures:
            continue
        parts = ("own_us", "main_thread_us", "threads_us", "pool_us", "server_us")
        requests = f"{figures['per_message']:.2f}" if "per_message" in figures else ""
        rows.append(
            [TITLES[name], WHERE[where], label(peer), f"{figures['rate']:,.0f}", requests]
            + [f"{figures[part]:,.0f}" for part in parts]
            + [f"{figures['peak_mb']:.0f}"]
        )
    return table(header, rows) if rows else ""


def _pairs(results: Results) -> str:
    """Ours over each peer's, within rounds."""
    header = ["hake:// over", "latency", "peer", "rate", "least", "most", "CPU", "least", "most", "with pool", "rounds"]
    rows = []
    for name, by_where in results["samples"].items():
        for where, by_peer in by_where.items():
            ours = by_peer.get("hake", [])
            for peer in sorted(by_peer, key=rank):
                try:
                    rate, tree = (pairs.ratio(ours, by_peer[peer], figure) for figure in ("rate", "cpu_us"))
                except KeyError:
                    continue
                if peer == "hake":
                    continue
                row = [TITLES[name], WHERE[where], label(peer), *_spread(rate)]
                # The main process of these workers only watches its children, and compares with nothing.
                if peer in OF_ANOTHER_ENVIRONMENT and name.startswith("prefork"):
                    row += [""] * 3
                else:
                    row += _spread(pairs.ratio(ours, by_peer[peer], "own_us"))
                rows.append([*row, f"{tree.median:.2f}", str(len(rate.values))])
    return table(header, rows) if rows else ""


def _spread(ratio: pairs.Ratio) -> list[str]:
    return [f"{number:.2f}" for number in (ratio.median, ratio.least, ratio.most)]


def _each(results: Results) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Scenario, place, peer and figures, in the order of the plan and the peers."""
    for name, by_where in results["figures"].items():
        for where, by_peer in by_where.items():
            for peer in sorted(by_peer, key=rank):
                yield name, where, peer, by_peer[peer]


def _latencies(results: Results) -> str:
    rows = [
        [TITLES[name], WHERE[where], label(peer), f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}"]
        for name, where, peer, figures in _each(results)
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
        [label(peer), *(_number(figures[key]) if key in figures else "" for key in columns.values())]
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
            label(peer),
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
            rows.append([name, label(peer), f"{requests:.2f}", f"{dollars:.2f}"])
    return table(["requests and price", "peer", "requests", "USD per million"], rows) if rows else ""


def _event(results: Results, peer: str, groups: int) -> tuple[float, float]:
    requests = results["figures"][f"fan_out_{groups}"]["far"][peer]["per_message"]
    return requests, per_million_events_usd(results, peer, groups)


def _targets(results: Results) -> str:
    rows = []
    for target in TARGETS:
        try:
            outcome = target.judge(results)
        except KeyError:
            continue
        rows.append([target.name, target.wanted, outcome.text, outcome.rounds, outcome.verdict])
    return table(["target", "wanted", "measured", "rounds that met it", ""], rows) if rows else ""


def _notes(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{settings['rounds']} round(s), {results['seconds']} s, {machine['processors']} processors,"
        f" Python {machine['python']}; {versions}",
    ]
    loads = [
        (figures["server_us"] * figures["rate"] / 1e6, f"{TITLES[name]}, {WHERE[where]}, {label(peer)}")
        for name, where, peer, figures in _each(results)
        if "server_us" in figures and "per_message" in figures
    ]
    if loads:
        load, what = max(loads)
        lines.append(f"the stand-in used at most {load:.0%} of a processor ({what})")
    lines += [f"absent: {peer}: {reason}" for peer, reason in results["missing"].items()]
    lines += [f"FAILED: {label}: {reason}" for label, reason in results["failures"].items()]
    return "\n".join(lines)
