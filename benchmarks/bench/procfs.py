"""Processor time and memory of a process and its descendants, from ``/proc``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of one process (``own_``) and of it with its descendants: processor seconds so far, resident memory in MiB."""

    cpu_s: float
    own_cpu_s: float
    memory_mb: float
    own_memory_mb: float
    own_peak_mb: float


def usage(pid: int) -> Usage:
    """What a process tree uses.

    Raises:
        ProcessLookupError: the process is gone.
    """
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                table[int(entry.name)] = _stat(entry)
            except (OSError, IndexError):
                continue  # it ended meanwhile
    if pid not in table:
        raise ProcessLookupError(pid)
    tree, size = {pid}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {child for child, (parent, _, _) in table.items() if parent in tree}
    return Usage(
        cpu_s=sum(table[member][1] for member in tree),
        own_cpu_s=table[pid][1],
        memory_mb=sum(table[member][2] for member in tree),
        own_memory_mb=table[pid][2],
        own_peak_mb=_peak_mb(pid),
    )


def _stat(entry: Path) -> tuple[int, float, float]:
    fields = (entry / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    return int(fields[1]), cpu_s, int(fields[21]) * _PAGE_BYTES / 2**20


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
