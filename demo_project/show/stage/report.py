"""The table of who ran what, and what is wrong with it; no I/O."""

from collections import Counter
from collections.abc import Sequence

Runs = Counter[tuple[int, str]]
"""How often each (order, group) ran."""

MAX_ROWS = 50


def progress(runs: Runs, groups: Sequence[str], placed: int, wanted: int) -> str:
    """One line: how many orders are placed, and how many each group has handled."""
    done = [f"{group} {sum(1 for _, each in runs if each == group)}/{wanted}" for group in groups]
    return "   ".join([f"placed {placed}/{wanted}", *done])


def faults(runs: Runs, orders: Sequence[int], groups: Sequence[str]) -> list[str]:
    """Everything that is not "once"; ``[]`` when every group ran every order exactly once."""
    found = []
    for group in groups:
        missing = [str(order) for order in orders if not runs[order, group]]
        if missing:
            found.append(f"{group} never ran order {', '.join(missing)}")
        found += [f"{group} ran order {order} {runs[order, group]} times" for order in orders if runs[order, group] > 1]
    expected = {(order, group) for order in orders for group in groups}
    found += [f"{group} ran order {order}, which was not sent there" for order, group in sorted(runs.keys() - expected)]
    return found


def table(runs: Runs, orders: Sequence[int], groups: Sequence[str]) -> str:
    """Order by group with the number of runs. A long table keeps its head and every row that is wrong."""
    widths = [max(9, len(group)) for group in groups]

    def row(head: object, cells: Sequence[object]) -> str:
        return f"{head!s:>9}  " + "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines = [row("order", groups), row("-" * 9, ["-" * width for width in widths])]
    for position, order in enumerate(orders):
        counts = [runs[order, group] for group in groups]
        if position < MAX_ROWS or any(count != 1 for count in counts):
            lines.append(row(order, counts))
    if len(orders) > MAX_ROWS:
        lines.append(f"{'...':>9}  (the first {MAX_ROWS} of {len(orders)} orders, and every one that is not 1)")
    lines += [lines[1], row("total", [sum(runs[order, group] for order in orders) for group in groups])]
    return "\n".join(lines)
