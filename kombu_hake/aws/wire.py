"""The hot calls of SQS with less CPU time: only a signer and urllib3's pool.

Why
    A boto3 call costs about 2.0 ms of CPU on the machine where the benchmarks run, of which HTTP is 0.5 ms; the rest is
    generic machinery (hooks, endpoint rules, user agent, serialiser, signer, parser) that computes the same for each
    call. With two calls for ten messages that is most of the cost of a message. SQS uses plain JSON, so bypassing the
    machinery takes a few lines. See ``docs/performance.md`` for the measurement.

What botocore still does
    Credentials (refreshing included), endpoint and region, and every call that is not listed in :data:`OPERATIONS`.
    If the user configured something that only botocore supports (an HTTP proxy, ``client_config``), its client makes
    these calls too.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from kombu_hake._version import __version__
from kombu_hake.aws.answers import checked
from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.error_table import error_from_answer, error_from_transport, foreign_answer
from kombu_hake.aws.retry import Tries
from kombu_hake.aws.sigv4 import Keys, Signer
from kombu_hake.aws.timely import bound_answers
from kombu_hake.config import Settings
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.quoting import guarded

__all__ = ["OPERATIONS", "SqsWire", "read_body", "read_timeout_s"]

logger = guarded(logging.getLogger(__name__))
#: boto3's name of a call to AWS's name.
OPERATIONS: Mapping[str, str] = {
    "send_message": "SendMessage",
    "send_message_batch": "SendMessageBatch",
    "receive_message": "ReceiveMessage",
    "delete_message_batch": "DeleteMessageBatch",
    "change_message_visibility_batch": "ChangeMessageVisibilityBatch",
}
_POOL_CONNECTIONS = 64
#: How much later than its wait time a long poll may be answered.
_POLL_GRACE_S = 5.0
#: How soon a network that drops everything is noticed: while sending a request, waiting for an answer, or idle. A long
#: poll is silent for twenty seconds by design, and dead idle connections would otherwise be noticed only on use.
_DEAD_AFTER_MS = 8_000
_PROBE_AFTER_S = 4
_PROBE_EVERY_S = 2
#: Maximum size of an answer: ten messages of 1 MiB, each character escaped as ``\\u003c``.
_MOST_BYTES = 64 * 1024 * 1024
#: Maximum time for the body of an answer to arrive: a server that sends a byte now and then resets each timeout.
_BODY_S = 60.0
_CHUNK_BYTES = 256 * 1024
_CONTENT_TYPE = "application/x-amz-json-1.0"
_USER_AGENT = f"kombu_hake/{__version__}"


class SqsWire:
    """Makes the calls in :data:`OPERATIONS`. One per process; safe to share between threads."""

    def __init__(self, session: Any, client: Any, settings: Settings, clock: AwsClock) -> None:
        """Use endpoint, region and credentials of a boto3 session and its SQS client; report AWS's time to *clock*."""
        import urllib3

        self._settings = settings
        self._clock = clock
        self._credentials = session.get_credentials()  # those of aws/credentials.py
        url = urllib3.util.parse_url(client.meta.endpoint_url)
        own_port = url.port in (None, 443 if url.scheme == "https" else 80)
        self._signer = Signer("sqs", client.meta.region_name, str(url.host if own_port else url.netloc))
        tls = {"ca_certs": _ca_bundle(session)} if url.scheme == "https" else {}
        self._pool = urllib3.connectionpool.connection_from_url(
            client.meta.endpoint_url,
            maxsize=_POOL_CONNECTIONS,
            block=False,
            retries=False,
            **tls,
            socket_options=_socket_options(),
        )
        self._pool.ConnectionCls = bound_answers(self._pool.ConnectionCls)

    @staticmethod
    def can_serve(client: Any, settings: Settings) -> bool:
        """Return True if nothing is configured that only botocore's own HTTP session supports."""
        if settings.client_config:
            return False
        scheme, _, rest = client.meta.endpoint_url.partition("://")
        host, _, path = rest.partition("/")
        if path:
            return False
        return not urllib.request.getproxies().get(scheme) or bool(urllib.request.proxy_bypass(host))

    def call(self, operation: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Make one call, with retries as by the SDK. ``receive_message`` is tried once: its caller has a back-off.

        Raises:
            HakeError: as :meth:`kombu_hake.aws.clients.Clients.sqs`.
        """
        wait_s = params.get("WaitTimeSeconds", 0)
        is_poll = operation == "receive_message"
        tries = Tries(1 if is_poll else self._settings.max_attempts, self._clock, is_patient=not is_poll)
        body = json.dumps(params).encode()
        while True:
            try:
                return self._once(operation, params, body, wait_s)
            except BrokerUnavailable as exc:
                pause_s = tries.pause_s(exc)
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _once(self, operation: str, params: Mapping[str, Any], body: bytes, wait_s: float) -> dict[str, Any]:
        import urllib3

        # Frozen: refreshable credentials are renewed here, and all parts are of one generation.
        frozen = self._credentials.get_frozen_credentials()
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        try:
            target, now_s = f"AmazonSQS.{OPERATIONS[operation]}", self._clock.now_s()
            headers = self._signer.headers(keys, target, _CONTENT_TYPE, body, now_s)
            headers["User-Agent"] = _USER_AGENT
            # Redirects are not followed: a signed request is for the endpoint alone. AWS does not compress what was
            # not asked for, so nothing is decompressed.
            response = self._pool.urlopen(
                "POST",
                "/",
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(
                    connect=self._settings.connect_timeout, read=read_timeout_s(self._settings, wait_s)
                ),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            data = read_body(response)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise error_from_transport(exc, "sqs", operation, self._settings) from exc
        answer = _parse(data)
        if answer is None:
            detail = f"status {response.status} with {len(data):,} bytes that are not a JSON object"
            raise foreign_answer(detail, f"sqs:{OPERATIONS[operation]}", str(params.get("QueueUrl")))
        if response.status == 200:
            found = checked("sqs", operation, params, answer)
            self._clock.learn(response.headers.get("date"))
            return found
        query_error = response.headers.get("x-amzn-query-error", "")
        refusal = error_from_answer(response.status, query_error, answer, "sqs", operation, params)
        if query_error or answer:
            is_refusal = isinstance(refusal, BrokerUnavailable) and refusal.is_clock_error
            self._clock.learn(response.headers.get("date"), is_refusal=is_refusal)
        raise refusal


def read_body(response: Any) -> bytes:
    """The raw body of a urllib3 response that was not preloaded. Returns its connection to the pool.

    Raises:
        BrokerUnavailable: it is larger, or takes longer, than an answer of AWS.
        urllib3.exceptions.HTTPError: the connection failed.
    """
    ends_at = time.monotonic() + _BODY_S
    parts: list[bytes] = []
    size = 0
    is_read = False
    try:
        for part in _pieces(response):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise BrokerUnavailable(f"An answer has more than {_MOST_BYTES:,} bytes; AWS sends none that large.")
            if time.monotonic() > ends_at:
                raise BrokerUnavailable(f"An answer took longer than {_BODY_S:g} s to arrive.")
        is_read = True
    finally:
        if is_read:
            response.release_conn()
        else:  # the rest would be read as the next answer
            response.close()
    return b"".join(parts)


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it arrives. ``stream`` would wait for a full piece, however slowly a server sends."""
    if not hasattr(response, "read1"):  # urllib3 1.26
        yield from response.stream(_CHUNK_BYTES, decode_content=False)
        return
    while piece := response.read1(_CHUNK_BYTES, decode_content=False):
        yield piece


def read_timeout_s(settings: Settings, wait_s: float) -> float:
    """How long an answer may take, seconds; *wait_s* is the wait time of a long poll.

    A long poll is answered when its time is over. If it is silent for longer, the answer is lost, and waiting on would
    only delay receiving.
    """
    return max(settings.read_timeout, wait_s + min(_POLL_GRACE_S, settings.read_timeout) if wait_s else 0.0)


def _socket_options() -> list[tuple[int, int, int]]:
    """The socket options of every connection, as far as the system supports them."""
    tcp = {
        "TCP_NODELAY": 1,  # headers and body are two writes: without this each call would wait for a delayed ACK
        "TCP_KEEPIDLE": _PROBE_AFTER_S,
        "TCP_KEEPINTVL": _PROBE_EVERY_S,
        "TCP_KEEPCNT": (_DEAD_AFTER_MS // 1000 - _PROBE_AFTER_S) // _PROBE_EVERY_S,
        "TCP_USER_TIMEOUT": _DEAD_AFTER_MS,
    }
    known = [(getattr(socket, name), value) for name, value in tcp.items() if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, name, value) for name, value in known)]


def _ca_bundle(session: Any) -> str | None:
    from botocore.httpsession import get_cert_path

    configured = session._session.get_config_variable("ca_bundle")  # AWS_CA_BUNDLE, or ca_bundle of the profile
    return str(get_cert_path(configured or True))


def _parse(data: bytes) -> dict[str, Any] | None:
    if not data:
        return {}
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
