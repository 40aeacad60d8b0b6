"""Where :class:`Why`, an argument of the signal ``lease_lost``, is documented to be."""

from kombu_hake.receive import Why

__all__ = ["Why"]
