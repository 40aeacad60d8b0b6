"""``make django``: what needs Django 6, on the newest Python of this machine that it runs on.

Django 6 needs Python 3.12 or later. Where there is none, this says that Django 6 was not tested. It has a virtual
environment of its own, ``.venv-django6``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-django6"
LEAST = (3, 12)
DJANGO = "django>=6,<7"
TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6")
#: Minor versions to look for, newest first; and where pyenv keeps its own.
NAMES = tuple(f"python3.{minor}" for minor in range(20, LEAST[1] - 1, -1))
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
TESTS = (
    "unit/test_contrib_django_*.py",
    "processes/test_django_tasks.py",
    "processes/test_demo_project.py",
    "processes/test_demo_show.py",
)


def main() -> int:
    python = find_python(os.environ.get("PYTHON6"))
    if python is None:
        print(
            "Django 6 was NOT TESTED: it needs Python 3.12 or later, and there is none on the PATH, in "
            f"{PYENV}, or named by PYTHON6. To test it: make django PYTHON6=/path/to/python3.12"
        )
        return 0
    install(python)
    tests = [str(path) for pattern in TESTS for path in sorted((ROOT / "tests").glob(pattern))]
    return subprocess.run(
        [VENV / "bin" / "python", "-m", "pytest", *tests, *sys.argv[1:]], cwd=ROOT, check=False
    ).returncode


def find_python(named: str | None) -> str | None:
    """The Python to use: *named*, if it is new enough, or the newest one that is found; None for none."""
    if named:
        found = version(named)
        if found is None or found < LEAST:
            sys.exit(f"PYTHON6={named} is no Python 3.12 or later.")
        return named
    paths = [shutil.which(name) for name in NAMES] + [str(path) for path in PYENV.glob("3.*/bin/python")]
    usable = {path: found for path in paths if path and (found := version(path)) is not None and found >= LEAST}
    return max(usable, key=lambda path: usable[path], default=None)


def version(python: str) -> tuple[int, ...] | None:
    """Its version; None where it does not run, as pyenv's commands of versions that are not selected."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


def install(python: str) -> None:
    """Make the environment, unless it has been made from this setup.cfg with this Python."""
    stamp = VENV / "made-from"
    wanted = "\n".join([python, DJANGO, *TOOLS, (ROOT / "setup.cfg").read_text()])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing into {VENV.name} with {python} (once, takes about a minute)", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", VENV], check=True)
    packages = ["--editable", f"{ROOT}[demo]", DJANGO, *TOOLS]
    pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())
