"""The rates as an SVG dot plot on a logarithmic axis, readable on light and dark pages. Text in, text out."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from .peers import label
from .report import TITLES, WHERE

Results = dict[str, Any]
SHOWN = ("hake", "sqs", "redis", "rabbitmq")
COLOURS = {"hake": "#2a9d5c", "sqs": "#d9772b", "redis": "#d1495b", "rabbitmq": "#6a7fd0"}
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 280, 130, 74, 30
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 11px; fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .row { stroke: #e6eaef; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .row { stroke: #2a313c }
  }
"""

Row = tuple[str, dict[str, float]]


def svg(results: Results) -> str:
    """One row for each scenario and latency, one dot for each peer, our ratio to kombu's ``sqs://`` at the right."""
    rows = _rows(results)
    values = [rate for _, rates in rows for rate in rates.values()] or [1.0]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.01))

    def x(value: float) -> float:
        share = math.log10(value / low) / math.log10(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="Rates of the peers by scenario"><style>{STYLE}</style>',
        *_legend(),
        *_grid(low, high, x, height),
    ]
    for number, (title, rates) in enumerate(rows):
        parts += _row(title, rates, x, TOP + ROW * number + ROW // 2)
    return "\n".join([*parts, "</svg>\n"])


def _rows(results: Results) -> list[Row]:
    rows = []
    for name, by_where in results["figures"].items():
        for where, by_peer in by_where.items():
            rates = {peer: by_peer[peer]["rate"] for peer in SHOWN if "rate" in by_peer.get(peer, {})}
            if len(rates) > 1:
                rows.append((f"{TITLES[name]}, {WHERE[where]}", rates))
    return rows


def _legend() -> list[str]:
    parts = ['<text x="12" y="22">Per second, logarithmic; latency added to each request</text>']
    for number, peer in enumerate(SHOWN):
        at = LEFT + number * 120
        parts.append(_dot(peer, at, 44))
        parts.append(f'<text x="{at + 12}" y="48">{escape(label(peer))}</text>')
    parts.append(f'<text class="small" x="{WIDTH - 12}" y="48" text-anchor="end">hake:// to sqs://</text>')
    return parts


def _grid(low: float, high: float, x: Any, height: int) -> list[str]:
    parts, value = [], low
    while value <= high:
        at = round(x(value), 1)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP - 8}" y2="{height - 26}"/>')
        parts.append(f'<text class="small" x="{at}" y="{height - 10}" text-anchor="middle">{value:,.0f}</text>')
        value *= 10
    return parts


def _row(title: str, rates: dict[str, float], x: Any, y: int) -> list[str]:
    parts = [
        f'<line class="row" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
        f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end">{escape(title)}</text>',
    ]
    # Ours last, so that it lies on top where dots meet.
    parts += [_dot(peer, round(x(rates[peer]), 1), y, rates[peer]) for peer in reversed(SHOWN) if peer in rates]
    if {"hake", "sqs"} <= rates.keys():
        ratio = rates["hake"] / rates["sqs"]
        shown = f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
        parts.append(f'<text x="{WIDTH - 12}" y="{y + 4}" text-anchor="end">{shown}</text>')
    return parts


def _dot(peer: str, x: float, y: int, rate: float | None = None) -> str:
    title = f"<title>{escape(label(peer))}: {rate:,.0f}</title>" if rate else ""
    colour = COLOURS[peer]
    if peer == "hake":
        return f'<circle cx="{x}" cy="{y}" r="7" fill="{colour}">{title}</circle>'
    if peer == "sqs":
        return f'<circle cx="{x}" cy="{y}" r="5.5" fill="none" stroke="{colour}" stroke-width="2.5">{title}</circle>'
    turn = f' transform="rotate(45 {x} {y})"' if peer == "rabbitmq" else ""
    return f'<rect x="{x - 5}" y="{y - 5}" width="10" height="10" fill="{colour}"{turn}>{title}</rect>'
