"""Replace a function of Celery by one that calls it, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["replace_once"]


def replace_once(owner: Any, name: str, made: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
    """Replace a function, or a method, by what *made* makes of it; False if that is done already.

    Args:
        owner: A class or an instance.
    """
    original = getattr(owner, name)
    if getattr(original, "is_of_hake", False):
        return False
    replacement: Any = wraps(original)(made(original))
    replacement.is_of_hake = True
    setattr(owner, name, replacement)
    return True
