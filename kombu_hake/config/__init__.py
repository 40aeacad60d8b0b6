"""Configuration: URL, options and environment become one frozen :class:`Settings`.

In: a broker URL, ``transport_options`` and the environment. Out: :class:`Settings`, or one
:class:`~kombu_hake.exceptions.ConfigurationError` that lists every fault. Open ``options.py`` for an option (its type,
default, summary and story), ``settings.py`` for the URL, and for checks of several options together.
"""

from __future__ import annotations

from kombu_hake.config.options import Access
from kombu_hake.config.settings import (
    SCHEME,
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
