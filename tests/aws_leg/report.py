"""What was measured, as a table and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_leg.lags import Lag, Rate
from kombu_hake.cli.tables import table

__all__ = ["as_json", "as_table"]

_HEADER = ("how late, seconds", "median", "worst", "n", "assumed", "")
_RATE_HEADER = ("tag calls a second", "accepted", "calls", "refused", "assumed")


def as_table(lags: Sequence[Lag], rates: Sequence[Rate]) -> str:
    """Median, worst and number of samples of each lag, beside what the package assumes; then the rates."""
    parts = []
    if lags:
        parts.append(table(_HEADER, [_row(lag) for lag in lags], right=(1, 2, 3, 4)))
    if rates:
        rows = [
            (
                rate.operation,
                f"{rate.per_s:.0f}" if rate.refused else f"{rate.per_s:.0f} or more",
                str(len(rate.accepted_at) + rate.refused),
                str(rate.refused),
                _number(rate.assumed_per_s, 0),
            )
            for rate in rates
        ]
        parts.append(table(_RATE_HEADER, rows, right=(1, 2, 3, 4)))
    return "\n\n".join(parts)


def as_json(where: Mapping[str, object], lags: Sequence[Lag], rates: Sequence[Rate]) -> dict[str, Any]:
    """The same and each sample, for keeping.

    Args:
        where: What the figures belong to, such as the region.
    """
    return {
        **where,
        "lags": [
            {
                "what": lag.what,
                "median_s": lag.median_s,
                "worst_s": lag.worst_s,
                "n": len(lag.samples_s),
                "samples_s": list(lag.samples_s),
                "missed": lag.missed,
                "limit_s": lag.limit_s,
                "assumed_s": lag.assumed_s,
            }
            for lag in lags
        ],
        "tag_calls": [
            {
                "operation": rate.operation,
                "accepted_per_s": rate.per_s,
                "accepted": len(rate.accepted_at),
                "refused": rate.refused,
                "for_s": rate.for_s,
                "assumed_per_s": rate.assumed_per_s,
            }
            for rate in rates
        ],
    }


def _row(lag: Lag) -> tuple[str, ...]:
    note = f"{lag.missed} more not within {lag.limit_s:.0f} s" if lag.missed else ""
    digits = 3 if lag.assumed_s is None and (lag.worst_s or 0) < 1 else 1
    return (
        lag.what,
        _number(lag.median_s, digits),
        _number(lag.worst_s, digits),
        str(len(lag.samples_s)),
        _number(lag.assumed_s, 0),
        note,
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
