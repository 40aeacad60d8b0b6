"""Rounds to ratios: what is compared within each round, so that a slow spell of the machine meets both sides. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

Samples = list[dict[str, Any]]

#: Of nine rounds seven must be on the right side of a line.
_NEEDED = 7 / 9


@dataclass(frozen=True)
class Ratio:
    """Ours over a peer's, round by round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)

    def met(self, line: float, *, is_lower_better: bool) -> int:
        """In how many rounds the ratio was on the right side of a line."""
        return sum(value <= line if is_lower_better else value >= line for value in self.values)

    def is_met(self, line: float, *, is_lower_better: bool) -> bool:
        """Whether the median is on the right side of the line, and seven ninths of the rounds are."""
        is_median_met = self.median <= line if is_lower_better else self.median >= line
        needed = math.ceil(len(self.values) * _NEEDED)
        return is_median_met and self.met(line, is_lower_better=is_lower_better) >= needed


def ratio(ours: Samples, theirs: Samples, name: str, their_name: str | None = None) -> Ratio:
    """The ratios of a figure in the rounds that both sides measured.

    Args:
        ours, theirs: Figures with the number of their ``round``.
        their_name: The peer's figure, when it is another one.
    Raises:
        KeyError: no round has both.
    """
    by_round = {sample["round"]: sample[their_name or name] for sample in theirs if sample.get(their_name or name)}
    values = tuple(
        sample[name] / by_round[sample["round"]] for sample in ours if name in sample and sample["round"] in by_round
    )
    if not values:
        raise KeyError(name)
    return Ratio(values)


def order(peers: list[str], round_number: int) -> list[str]:
    """The order of turns: there in even rounds, back in odd ones."""
    return list(peers) if round_number % 2 == 0 else list(reversed(peers))
