"""Find out at which step an endpoint cannot be reached: name, connection or TLS. For people; no request is sent."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

__all__ = ["unreachable_at"]


def unreachable_at(url: str, timeout_s: float) -> str | None:
    """The first step on the way to an endpoint that fails, in a sentence; None if all succeed.

    Does not use an HTTP proxy, so ask only after a request has failed.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:  # no name at all
        return f"The name {host} does not resolve: {exc}."
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            if parts.scheme != "https":
                return None
            try:
                ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
            except (ssl.SSLError, OSError) as exc:
                return f"TLS with {host}:{port} fails: {exc}."
    except OSError as exc:
        return f"Nothing answers at {host}:{port}: {exc}."
    return None
