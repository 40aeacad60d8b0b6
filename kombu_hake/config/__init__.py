"""Configuration: broker URL, transport options and environment in, one frozen :class:`Settings` out.

Every fault is reported at once, in one :class:`~kombu_hake.exceptions.ConfigurationError`.
"""

from __future__ import annotations

from kombu_hake.config.options import Access
from kombu_hake.config.settings import (
    SCHEME,
    Masked,
    Settings,
    UrlParts,
    join_url,
    kombu_fields,
    load,
    mask_url,
    masked,
    masked_url,
    region_of_url,
    revealed,
    split_url,
)

__all__ = [
    "SCHEME",
    "Access",
    "Masked",
    "Settings",
    "UrlParts",
    "join_url",
    "kombu_fields",
    "load",
    "mask_url",
    "masked",
    "masked_url",
    "region_of_url",
    "revealed",
    "split_url",
]
