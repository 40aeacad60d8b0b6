"""Return freed memory to the system. glibc keeps blocks of up to 32 MiB once such a block was freed.

Decoding a large message frees a copy below memory that stays in use. With this hole, into which no large block fits, a
worker's main process would take five times the size of a 25 MiB message instead of four times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

__all__ = ["give_back_freed"]


def give_back_freed() -> None:
    """Return the pages of freed blocks to the system. Takes milliseconds; does nothing without glibc."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    try:
        import ctypes

        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, TypeError, AttributeError):
        return lambda pad: None
    return found
