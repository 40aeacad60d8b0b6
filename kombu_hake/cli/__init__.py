"""``celery -A app hake …``: each command prints what a function of :mod:`kombu_hake.admin` found."""

from __future__ import annotations

from kombu_hake.cli.main import hake

__all__ = ["hake"]
