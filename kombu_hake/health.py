"""Tell from its health file whether a worker is healthy: :func:`read`, or ``python -m kombu_hake.health PATH``.

The worker (:mod:`kombu_hake.worker.health`) replaces the file every few seconds. Its time stamp is the last time at
which every part of the worker made progress, so a program that checks only the time stamp (``find PATH -mmin -1``) gets
the same result. Its content is JSON, and says which parts are stuck. Anyone who can write to the folder can write the
file, so its content is not trusted.

This module imports neither Celery nor boto3, for a probe that runs every few seconds.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from kombu_hake.quoting import escaped, quoted

__all__ = ["Health", "Stuck", "main", "read"]

#: How old the time stamp may be, seconds. The worker renews it every five seconds while it is healthy.
MAX_AGE_S = 45.0
_MAX_BYTES = 64 * 1024
#: Parts that are written and shown.
_MAX_STUCK = 20
_MAX_CHARS = 500
_STATES = ("ok", "starting", "stopping", "stuck")


@dataclass(frozen=True)
class Stuck:
    """A part of a worker that makes no progress.

    Attributes:
        part: Such as ``the event loop`` or ``the poller of queue email``.
        since: When it last made progress, seconds since the epoch.
        where: The innermost frames of its stack, if known.
    """

    part: str
    since: float
    where: str = ""


@dataclass(frozen=True)
class Health:
    """The content of a health file.

    Attributes:
        node: Name of the worker, such as ``celery@host``.
        pid: Process id of its main process.
        state: ``ok``; ``starting`` until it consumes, and while it connects again; ``stopping``; or ``stuck``.
        parts: How many parts are watched.
        stuck: Parts that make no progress, the longest first.
        age_s: Seconds since the time stamp of the file, when it was read.
    """

    node: str = ""
    pid: int = 0
    state: str = "ok"
    parts: int = 0
    stuck: tuple[Stuck, ...] = ()
    age_s: float = field(default=0.0, compare=False)

    @property
    def is_healthy(self) -> bool:
        """True if nothing is stuck, and the file is fresh."""
        return not self.stuck and self.state != "stuck" and abs(self.age_s) <= MAX_AGE_S

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"is_healthy": self.is_healthy, **asdict(self)}

    def __str__(self) -> str:
        """One line, or one for each part that is stuck."""
        who = f"{self.node} (pid {self.pid})"
        if self.stuck:
            return "\n".join(
                f"unhealthy: {one.part} of {who} has made no progress since {_moment(one.since)}"
                + (f", at {one.where}" if one.where else "")
                for one in self.stuck
            )
        if self.age_s > MAX_AGE_S:
            return f"unhealthy: {who} has not renewed its file for {self.age_s:.0f} s: it has ended, or is frozen"
        if self.age_s < -MAX_AGE_S:
            return f"unhealthy: the file of {who} is {-self.age_s:.0f} s ahead of the clock of this machine"
        return f"{'unhealthy' if self.state == 'stuck' else 'healthy'}: {who} is {self.state}"

    def dumps(self) -> str:
        """The content of a file."""
        fields = {
            "version": 1,
            "node": self.node,
            "pid": self.pid,
            "state": self.state,
            "parts": self.parts,
            "stuck": [asdict(one) for one in self.stuck[:_MAX_STUCK]],
        }
        return json.dumps(fields) + "\n"


def read(path: str, now_s: float | None = None) -> Health:
    """Read a health file.

    Args:
        now_s: Seconds since the epoch, instead of this machine's time.
    Raises:
        FileNotFoundError: There is none: the worker has not started, has stopped, or writes another path.
        OSError: It cannot be read.
        ValueError: It is not a health file.
    """
    # A pipe in its place must not block, and a device must not be read.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a file.")
        content = os.read(handle, _MAX_BYTES + 1)
    finally:
        os.close(handle)
    age_s = (time.time() if now_s is None else now_s) - status.st_mtime
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError
        return _parsed(json.loads(content), age_s)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise ValueError(f"{path} is not a health file of kombu_hake.") from None


def _parsed(found: Any, age_s: float) -> Health:
    """Raises several errors for content that no worker writes."""
    if found["version"] != 1 or found["state"] not in _STATES or len(found["stuck"]) > _MAX_STUCK:
        raise ValueError
    stuck = tuple(Stuck(_text(one["part"]), _number(one["since"]), _text(one["where"])) for one in found["stuck"])
    return Health(
        _text(found["node"]), int(_number(found["pid"])), found["state"], int(_number(found["parts"])), stuck, age_s
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return quoted(value, _MAX_CHARS)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**33:
        raise TypeError
    return value


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m kombu_hake.health PATH``: print the state of a worker.

    Returns:
        0 if it is healthy, 2 if not, 1 if there is no such file.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1 or given[0].startswith("-"):
        sys.stderr.write("Usage: python -m kombu_hake.health PATH\n")
        return 1
    try:
        health = read(given[0])
    except FileNotFoundError:
        sys.stderr.write(f"There is no file {escaped(given[0])}. A worker writes it with the option health_file.\n")
        return 1
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"{escaped(str(exc))}\n")
        return 1
    sys.stdout.write(f"{health}\n")
    return 0 if health.is_healthy else 2


if __name__ == "__main__":
    sys.exit(main())
