"""Give freed memory back to the system. glibc keeps blocks of up to 32 MiB for itself once such a block was freed.

Decoding a large message frees a copy of it below what stays. With that hole, which nothing large fits into, a worker's
main process would take five times a message of 25 MiB instead of four.
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
