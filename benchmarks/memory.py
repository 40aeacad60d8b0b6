"""Peak memory of processes that move one large message through S3: publisher, main process of a worker, pool process.

    python -m benchmarks.memory 25 100

Each size, in MiB, is that of one argument of a task, a text. The figures are the highest resident memory above that of
the same process before, as a multiple of the size. Before, each process has handled a message of 2 MiB, so what it
imports for S3 does not count. The figures depend on no clock, so a busy machine does not change them. The embedded AWS
runs in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery

from kombu_hake.testing import EmbeddedAWS, embedded_aws

MIB = 1024 * 1024
BUCKET = "payloads-of-the-benchmark"
OPTIONS = {"large_messages": f"s3://{BUCKET}/memory", "visibility_timeout": 60, "wait_time_seconds": 1}
BROKER, RUNS = "MEMORY_BROKER", "MEMORY_RUNS"

app = Celery("memory", broker=os.environ.get(BROKER, "hake://"))
app.conf.broker_transport_options = OPTIONS
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 1


@app.task(name="measure")
def measure(data: str) -> None:
    """Notes that it ran."""
    with open(os.environ[RUNS], "a", encoding="utf-8") as runs:
        runs.write(f"{len(data)}\n")


def resident_bytes(pid: int, name: str) -> int:
    """``VmRSS``, or ``VmHWM`` for the highest since :func:`forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def forget_peak(pid: int) -> int:
    """Have the peak of a process start anew; its resident memory now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes(pid, "VmRSS")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def publish(size: int) -> None:
    """In a process of its own: publish a task, then, after a line on standard input, a large one; print the peak."""
    measure.delay("x" * 2 * MIB)
    sys.stdin.readline()
    before = forget_peak(os.getpid())
    measure.delay("x" * size)
    print(resident_bytes(os.getpid(), "VmHWM") - before)


def run(aws: EmbeddedAWS, size: int, folder: Path) -> dict[str, float]:
    """Multiples of *size* by process."""
    runs = folder / f"runs-{size}"
    environment = {**os.environ, BROKER: aws.in_namespace(f"m{size}").url, RUNS: str(runs)}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.memory", "worker", "-c", "1", "-l", "WARNING"]
    worker = subprocess.Popen(command, env=environment)
    try:
        publisher = subprocess.Popen(
            [sys.executable, "-c", f"from benchmarks.memory import publish; publish({size})"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        _until(lambda: _count(runs) == 1)
        of_worker = [worker.pid, *children(worker.pid)]
        before = {pid: forget_peak(pid) for pid in of_worker}
        published = int(publisher.communicate("\n", timeout=300)[0])
        _until(lambda: _count(runs) == 2)
        peaks = [resident_bytes(pid, "VmHWM") - before[pid] for pid in of_worker]
    finally:
        worker.terminate()
        worker.wait(60)
    return {"publisher": published / size, "main process": peaks[0] / size, "pool process": max(peaks[1:]) / size}


def _count(runs: Path) -> int:
    return len(runs.read_text(encoding="utf-8").splitlines()) if runs.exists() else 0


def _until(condition: object, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not run it")
        time.sleep(0.02)


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[25, 100], metavar="MIB")
    options = parser.parse_args()
    with embedded_aws() as aws, tempfile.TemporaryDirectory() as folder:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        for mib in options.sizes:
            found = run(aws, mib * MIB, Path(folder))
            shown = ", ".join(f"{name} {multiple:.1f} x" for name, multiple in found.items())
            print(f"{mib} MiB: {shown}", flush=True)


if __name__ == "__main__":
    main()
