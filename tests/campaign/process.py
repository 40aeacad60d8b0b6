"""What a process uses, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of one process, now: resident memory, threads, open descriptors, and those of them that are sockets."""

    memory_mib: float
    threads: int
    descriptors: int
    sockets: int

    def __str__(self) -> str:
        return f"{self.memory_mib:.1f} MiB, {self.threads} threads, {self.descriptors} fds, {self.sockets} sockets"


def usage(pid: int) -> Usage:
    """Raises OSError when the process is gone."""
    folder = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    links = []
    for descriptor in (folder / "fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except OSError:
            continue  # closed meanwhile
    sockets = sum(link.startswith("socket:") for link in links)
    return Usage(int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(links), sockets)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time so far of processes, together; of those that are gone nothing."""
    total = 0
    for pid in pids:
        try:
            fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S
