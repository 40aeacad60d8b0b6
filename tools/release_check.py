"""Check what is in ./dist: ``make release-check``.

The wheel is installed into an empty environment of each Python on this machine, without a HOME and without variables of
the caller, and the first example of README.md runs there: its file, its emulator, its worker, its task. With ``--sbom``
the packages that come with the wheel are written as a CycloneDX document instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from compatibility import find_python

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PATIENCE_S = 60.0
_MARKED = re.compile(r"^<!-- run: (\w+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```python\n(# shop\.py\n.*?)^```$", re.MULTILINE | re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="release_check", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", default="", metavar="MINOR", help="check with this Python only, such as 3.12")
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="write the bill of materials, check nothing else")
    options = parser.parse_args(arguments)
    wheel = the_wheel()
    version = wheel.name.split("-")[1]
    tag = os.environ.get("RELEASE_TAG", f"v{version}")  # set by the release workflow
    if tag != f"v{version}":
        sys.exit(f"The tag is {tag}, but the wheel is that of version {version}.")
    if options.sbom is not None:
        write_sbom(wheel, options.sbom)
        return 0
    is_failed = False
    for minor in PYTHONS:
        if options.only not in ("", minor):
            continue
        python = find_python(minor)
        result = f"untested: no Python {minor} on this machine"
        if python is not None:
            try:
                result = check(python, wheel)
            except (AssertionError, subprocess.SubprocessError) as exc:
                result, is_failed = f"FAILED: {exc}", True
        sys.stdout.write(f"Python {minor}: {result}\n")
        sys.stdout.flush()
    return int(is_failed)


def the_wheel() -> Path:
    """The wheel in ./dist."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"There must be one wheel in {ROOT / 'dist'}, not {len(wheels)}: make dist")
    return wheels[0]


def check(python: str, wheel: Path) -> str:
    """Install the wheel and run the quick start; returns the versions."""
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        environment = _install(python, wheel, "[celery,testing]", Path(folder) / "environment")
        home = Path(folder) / "home"
        home.mkdir()
        quick_start(environment, home)
        names = ("kombu-hake", "kombu", "celery", "boto3", "moto")
        code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {names}), sep=', ')"
        done = subprocess.run([environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
        return f"ok ({done.stdout.strip()})"


def quick_start(environment: Path, home: Path) -> None:
    """The README's first example, as a reader pastes it, in an empty folder."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands: dict[str, str] = {}
    for what, text in _MARKED.findall(readme):
        commands.setdefault(what, text)
    source = _FILE.search(readme)
    assert source is not None, "README.md has no block that begins with # shop.py"
    assert {"aws", "worker", "send"} <= set(commands), f"README.md has only the marked blocks {sorted(commands)}"
    (home / "shop.py").write_text(source[1], encoding="utf-8")
    port = str(_free_port())
    aws = commands["aws"].replace("4100", port)
    variables = {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(environment / "bin"), "/usr/bin", "/bin"]),
        "C_FORCE_ROOT": "1",  # Celery does not start as root without it
    }
    with running(aws + "wait\n", home, variables, "emulator") as emulator:
        _await(lambda: _is_open(int(port)), emulator)
        for line in re.findall(r"^export (.*)$", aws, re.MULTILINE):
            variables |= dict(word.split("=", 1) for word in shlex.split(line))
        with running(f"exec {commands['worker']}", home, variables, "worker") as worker:
            _await(lambda: " ready." in worker.read_text(), worker)
            subprocess.run(["bash", "-ec", commands["send"]], cwd=home, env=variables, check=True, timeout=PATIENCE_S)
            _await(lambda: "succeeded in" in worker.read_text(), worker)


@contextmanager
def running(script: str, folder: Path, variables: Mapping[str, str], name: str) -> Iterator[Path]:
    """A script of bash, ended with all that it has started; yields the file with its output."""
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-ec", script], cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write_sbom(wheel: Path, file: Path) -> None:
    """The packages that ``pip install kombu-hake[celery]`` installs now, as CycloneDX in JSON."""
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        environment = _install(sys.executable, wheel, "[celery]", Path(folder) / "environment", "--without-pip")
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON"]
        subprocess.run([*command, "-o", str(file), str(environment / "bin" / "python")], check=True)
    document = json.loads(file.read_text(encoding="utf-8"))
    for component in document["components"]:  # where the wheel was on this machine
        references = component.get("externalReferences", [])
        component["externalReferences"] = [each for each in references if not each["url"].startswith("file:")]
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _install(python: str, wheel: Path, extras: str, environment: Path, *options: str) -> Path:
    subprocess.run([python, "-m", "venv", *options, str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip"]
    if options:  # its own pip would be listed too
        pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", f"{wheel}{extras}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the wheel cannot be installed: {done.stderr[-500:]}"
    return environment


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _await(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {log.read_text()[-2_000:]}"
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
