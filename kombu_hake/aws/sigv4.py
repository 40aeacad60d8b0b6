"""AWS Signature Version 4 for one kind of request: POST to ``/`` with a JSON body. Pure.

Why ours
    botocore's signer takes about 0.3 ms per request, because it supports any request: it parses the URL twice, sorts
    and normalises every header, and derives the day's key again. Here the headers are known in advance and the key is
    cached, which takes about 0.03 ms. ``tests/unit/test_sigv4.py`` compares the result with botocore's, header by
    header, for random requests.

Source:
    AWS General Reference, "Signature Version 4 signing process".
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import NamedTuple

__all__ = ["Keys", "Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"


class Keys(NamedTuple):
    """One generation of credentials."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs POST requests of one service, region and host. Safe to share between threads."""

    def __init__(self, service: str, region: str, host: str) -> None:
        """*host* is the value of the Host header: with the port, unless it is the scheme's default."""
        self._service = service
        self._region = region
        self._host = host
        #: (day, secret key) and the key derived from them; replaced as a whole.
        self._derived: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def headers(
        self, keys: Keys, target: str, content_type: str, body: bytes, now: float | None = None
    ) -> dict[str, str]:
        """All headers of the request except User-Agent and Content-Length.

        Args:
            target: ``X-Amz-Target``, such as ``AmazonSQS.SendMessage``.
            now: Seconds since the epoch.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        signed = {"content-type": content_type, "host": self._host, "x-amz-date": stamp}
        if keys.token:
            signed["x-amz-security-token"] = keys.token
        signed["x-amz-target"] = target
        names = ";".join(signed)
        canonical = "\n".join(
            ("POST", "/", "", *(f"{name}:{value}" for name, value in signed.items()), "", names, _sha256(body))
        )
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = "\n".join((_ALGORITHM, stamp, scope, _sha256(canonical.encode())))
        signature = hmac.new(self._key(stamp[:8], keys.secret_key), to_sign.encode(), hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": content_type,
            "Host": self._host,
            "X-Amz-Date": stamp,
            "X-Amz-Target": target,
            "Authorization": (
                f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
            ),
        }
        if keys.token:
            headers["X-Amz-Security-Token"] = keys.token
        return headers

    def _key(self, day: str, secret: str) -> bytes:
        known, key = self._derived
        if known != (day, secret):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._derived = ((day, secret), key)
        return key


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
