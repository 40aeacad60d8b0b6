"""Documented module of :class:`Why`, an argument of the signal ``lease_lost``."""

from kombu_hake.receive import Why

__all__ = ["Why"]
