"""The documentation site, built as ``make docs`` builds it."""

import subprocess
import sys
from pathlib import Path

from support.pages import ROOT

__all__ = ["build_site"]


def build_site(folder: Path) -> Path:
    """Build the site into *folder*; a warning of MkDocs is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder
