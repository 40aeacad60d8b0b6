"""Processor time and memory of processes, from ``/proc``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Processor seconds so far of a process, its main thread and its descendants.

    Attributes:
        own_s: The process, all its threads, those that ended included.
        main_thread_s: Its main thread.
        tree_s: The process with its descendants.
    """

    own_s: float
    main_thread_s: float
    tree_s: float

    def since(self, before: Usage) -> Usage:
        """What was used since then."""
        return Usage(
            self.own_s - before.own_s,
            self.main_thread_s - before.main_thread_s,
            self.tree_s - before.tree_s,
        )

    def per_message(self, count: int) -> dict[str, float]:
        """Microseconds a message.

        Returns:
            ``cpu_us`` (all processes), of which ``own_us`` (the measured process) and ``pool_us`` (its descendants);
            of ``own_us``: ``main_thread_us`` and ``threads_us`` (all other threads, those that ended included).
        """
        scale = 1e6 / count
        return {
            "cpu_us": self.tree_s * scale,
            "own_us": self.own_s * scale,
            "main_thread_us": self.main_thread_s * scale,
            "threads_us": (self.own_s - self.main_thread_s) * scale,
            "pool_us": (self.tree_s - self.own_s) * scale,
        }


def usage(pid: int) -> Usage:
    """What a process and its descendants use.

    Raises:
        ProcessLookupError: the process is gone.
    """
    try:
        main_thread_s = _stat(Path(f"/proc/{pid}/task/{pid}/stat"))[1]  # before the rest, so that it is never more
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    table = _table()
    if pid not in table:
        raise ProcessLookupError(pid)
    return Usage(own_s=table[pid][1], main_thread_s=main_thread_s, tree_s=_sum(table, [pid]))


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of these processes with their descendants; 0 for those that are gone."""
    wanted = list(pids)
    return _sum(_table(), wanted) if wanted else 0.0


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def memory_mb(pid: int) -> float:
    """Resident memory now, MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20


def peak_mb(pid: int) -> float:
    """The most resident memory so far, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def parse_stat(text: str) -> tuple[int, float]:
    """Parent and processor seconds from a line of ``/proc/PID/stat``; names of processes may hold anything."""
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) * _TICK_S


def _table() -> dict[int, tuple[int, float]]:
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                table[int(entry.name)] = _stat(entry / "stat")
            except (OSError, IndexError):
                continue  # it ended meanwhile
    return table


def _sum(table: dict[int, tuple[int, float]], pids: list[int]) -> float:
    tree, size = {pid for pid in pids if pid in table}, -1
    while len(tree) > size:
        size = len(tree)
        tree |= {child for child, (parent, _) in table.items() if parent in tree}
    return sum(table[member][1] for member in tree)


def _stat(path: Path) -> tuple[int, float]:
    return parse_stat(path.read_text())
