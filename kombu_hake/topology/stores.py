"""Where the payloads of messages are kept that are too large for SNS or SQS: the buckets that are configured.

The option ``large_messages`` names one for all messages; an exchange may have another, by its argument
``x-large-messages``. Only what is named here is read, whatever a message says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu_hake.amqp import ORIGIN_HEADER, Pointer, Store, parse_store
from kombu_hake.config import Settings
from kombu_hake.exceptions import DeclarationMismatch
from kombu_hake.quoting import quoted

__all__ = ["STORE_ARGUMENT", "Stores", "checked_store", "same_store"]

#: Argument of an exchange: its own ``s3://bucket/prefix``.
STORE_ARGUMENT = "x-large-messages"


def checked_store(exchange: str, url: object) -> Store | None:
    """The value of :data:`STORE_ARGUMENT`, None for none. Pure.

    Raises:
        DeclarationMismatch: it is no URL of a bucket.
    """
    if url is None:
        return None
    try:
        return parse_store(url)
    except ValueError as exc:
        raise DeclarationMismatch(
            f"{STORE_ARGUMENT} of exchange {exchange!r} is {quoted(url)}; it must be {exc}."
        ) from None


def same_store(exchange: str, one: Store | None, other: Store | None) -> Store | None:
    """The store of an exchange that is declared twice. Pure.

    Raises:
        DeclarationMismatch: there are two.
    """
    if one is not None and other is not None and one != other:
        raise DeclarationMismatch(
            f"Exchange {exchange!r} is declared with {STORE_ARGUMENT}={str(one)!r} and with {str(other)!r}: its large "
            "messages can have one place only."
        )
    return one or other


class Stores:
    """The configured stores. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._default = settings.large_messages
        #: Whether none is configured: then no message goes to S3 or comes from there.
        self.is_empty = self._default is None
        self._by_exchange: dict[str, Store] = {}

    def declare(self, exchange: str, url: object) -> None:
        """Record the store of an exchange; None for none of its own.

        Raises:
            DeclarationMismatch: it is no URL of a bucket, or not the one that this process declared before.
        """
        store = same_store(exchange, self._by_exchange.get(exchange), checked_store(exchange, url))
        if store is not None:
            self._by_exchange[exchange] = store
            self.is_empty = False

    def of(self, exchange: str, headers: Mapping[str, Any]) -> Store | None:
        """Where the payload of a message goes; None if it has no place.

        Args:
            headers: Of the message. A retry, or the message of one handler, is sent to a queue, and goes where the
                event that it comes from did.
        """
        if not self._by_exchange:
            return self._default
        origin = headers.get(ORIGIN_HEADER)
        came_from = origin.get("exchange") if isinstance(origin, Mapping) else None
        found = self._by_exchange.get(exchange)
        if found is None and isinstance(came_from, str):
            found = self._by_exchange.get(came_from)
        return found or self._default

    def holding(self, pointer: Pointer) -> Store | None:
        """The store that an object may be read from; None for a foreign bucket or key."""
        stores = [store for store in (self._default, *self._by_exchange.values()) if store is not None]
        return next((store for store in stores if store.holds(pointer)), None)

    def owns(self, pointer: Pointer) -> bool:
        """Return True if an object may be deleted once its message is settled."""
        stores = [store for store in (self._default, *self._by_exchange.values()) if store is not None]
        return any(store.owns(pointer) for store in stores)

    def __str__(self) -> str:
        return ", ".join(str(s) for s in dict.fromkeys((self._default, *self._by_exchange.values())) if s is not None)
