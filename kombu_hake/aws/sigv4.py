"""AWS Signature Version 4 for one kind of request: POST to ``/`` without a query string. Pure.

Why ours
    botocore's signer takes about 0.3 ms per request, because it supports any request: it parses the URL twice, sorts
    and normalises every header, and derives the day's key again. Here the headers are known in advance and the key is
    cached, which takes about 0.03 ms. ``tests/unit/test_sigv4.py`` compares the result with botocore's, header by
    header, for random requests.

Source:
    AWS General Reference, "Signature Version 4 signing process".
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import NamedTuple

__all__ = ["Keys", "Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"
#: From this length on, hashlib releases the interpreter lock. To get it back from a busy thread takes up to 5 ms, a
#: thousand times as long as hashing a short body in pieces.
_UNLOCKED_BYTES = 2048
_LONG_BYTES = 64 * 1024


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
        #: What follows from the day and the keys, and from the second; each replaced as a whole.
        self._derived: tuple[tuple[str, str], bytes] = (("", ""), b"")
        self._stamp: tuple[int, str] = (-1, "")

    def headers(self, keys: Keys, target: str | None, content_type: str, body: bytes, now: float) -> dict[str, str]:
        """All headers of the request except User-Agent and Content-Length.

        Args:
            target: ``X-Amz-Target``, such as ``AmazonSQS.SendMessage``; None for the query protocol.
            now: Seconds since the epoch.
        """
        access_key, secret_key, token = keys
        stamp = self._stamp_of(int(now))
        names, values = (
            "content-type;host;x-amz-date",
            f"content-type:{content_type}\nhost:{self._host}\nx-amz-date:{stamp}",
        )
        headers = {"Content-Type": content_type, "Host": self._host, "X-Amz-Date": stamp}
        if token:
            names, values = f"{names};x-amz-security-token", f"{values}\nx-amz-security-token:{token}"
            headers["X-Amz-Security-Token"] = token
        if target is not None:
            names, values = f"{names};x-amz-target", f"{values}\nx-amz-target:{target}"
            headers["X-Amz-Target"] = target
        canonical = f"POST\n/\n\n{values}\n\n{names}\n{_sha256(body)}"
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = _hmac(self._key(stamp[:8], secret_key), to_sign).hex()
        headers["Authorization"] = (
            f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def _stamp_of(self, second: int) -> str:
        known, stamp = self._stamp
        if known != second:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._stamp = (second, stamp)
        return stamp

    def _key(self, day: str, secret: str) -> bytes:
        known, key = self._derived
        if known != (day, secret):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = _hmac(key, part)
            self._derived = ((day, secret), key)
        return key


def _sha256(body: bytes) -> str:
    if not _UNLOCKED_BYTES <= len(body) < _LONG_BYTES:
        return sha256(body).hexdigest()
    digest, view = sha256(), memoryview(body)
    for start in range(0, len(body), _UNLOCKED_BYTES - 1):
        digest.update(view[start : start + _UNLOCKED_BYTES - 1])
    return digest.hexdigest()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
