"""Integrations with frameworks. Each is a package that imports its framework only when it is used."""

from __future__ import annotations

__all__ = ()
