"""Other versions of the package as peers: a revision of this repository, or another checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import tools


def find(wanted: str, folder: Path) -> tuple[str, Path]:
    """The name of a baseline and the folder that holds its ``kombu_hake``.

    Args:
        wanted: ``REVISION``, ``PATH`` or ``NAME=PATH``.
        folder: Where a revision is unpacked.
    Raises:
        ValueError: there is no such revision, or no package in it.
    """
    name, _, path = wanted.rpartition("=")
    found = Path(path).resolve()
    if not found.is_dir():
        name, found = wanted, folder / wanted.replace("/", "-")
        _unpack(wanted, found)
    if not (found / "kombu_hake" / "__init__.py").exists():
        raise ValueError(f"{wanted}: there is no kombu_hake in {found}")
    return f"hake@{name or found.name}", found


def _unpack(revision: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision, "kombu_hake"], cwd=tools.ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise ValueError(f"{revision} is neither a folder nor a revision: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
