"""The hot calls of SQS and SNS with less CPU time: only a signer, and a small HTTP client.

Why
    A boto3 call costs about 2 ms of CPU on the machine where the benchmarks run, most of it in generic machinery
    (hooks, endpoint rules, user agent, serializer, signer, parser) that computes the same for each call. With two calls
    for ten messages that is most of the cost of a message. See ``docs/performance.md`` for the measurement.

What botocore still does
    Credentials (refreshing included), endpoint and region, and every call that is not listed in :data:`OPERATIONS`.
    If the user configured something that only botocore supports (an HTTP proxy, ``client_config``), its client makes
    these calls too.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kombu_hake._version import __version__
from kombu_hake.amqp import SQS_MAX_WAIT_S
from kombu_hake.aws import query
from kombu_hake.aws.answers import checked
from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.error_table import error_from_answer, error_from_transport, foreign_answer
from kombu_hake.aws.http import Answer, HttpPool
from kombu_hake.aws.pulse import Wait
from kombu_hake.aws.retry import Tries
from kombu_hake.aws.sigv4 import Keys, Signer
from kombu_hake.config import Settings
from kombu_hake.exceptions import BrokerUnavailable, ConfigurationError, HakeError, PublishError
from kombu_hake.telemetry import Telemetry

__all__ = ["OPERATIONS", "Wire", "answer_limit_s", "read_timeout_s"]

#: For each service, boto3's name of a call to AWS's name.
OPERATIONS: Mapping[str, Mapping[str, str]] = {
    "sqs": {
        "send_message": "SendMessage",
        "send_message_batch": "SendMessageBatch",
        "receive_message": "ReceiveMessage",
        "delete_message_batch": "DeleteMessageBatch",
        "change_message_visibility_batch": "ChangeMessageVisibilityBatch",
    },
    "sns": {"publish": "Publish", "publish_batch": "PublishBatch"},
}
#: How much later than its wait time a long poll may be answered.
_POLL_GRACE_S = 5.0
#: What one try may take besides its time limits: looking up names, several addresses, renewing credentials, and an
#: answer that arrives in small pieces (:mod:`kombu_hake.aws.timely`).
_SLACK_S = 60.0


def _binary(value: Any) -> str:
    """The value of a binary attribute as JSON has it."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not a type of a parameter of SQS")
    return base64.b64encode(value).decode("ascii")


_to_json = json.JSONEncoder(default=_binary).encode
_from_json = json.JSONDecoder().decode
_JSON = "application/x-amz-json-1.0"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
#: A proxy on the way must not compress answers: they are not decompressed.
_FIXED = f"\r\nUser-Agent: kombu_hake/{__version__}\r\nAccept-Encoding: identity"


class _Found(NamedTuple):
    """What an answer says."""

    fields: dict[str, Any]
    #: Set if it is an error: the query protocol's code, ``<code>;<Sender or Receiver>``.
    query_error: str = ""


class Wire:
    """Makes the calls in :data:`OPERATIONS` of one service. One per process; safe to share between threads."""

    def __init__(
        self,
        service: str,
        session: Any,
        client: Any,
        settings: Settings,
        clock: AwsClock,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Use endpoint, region and credentials of a boto3 session and its client; report AWS's time to *clock*."""
        self._service = service
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry
        #: By the wait time of a poll: what follows from it and the settings.
        self._limits: dict[float, tuple[float, float]] = {}
        #: The keys as botocore gave them last, and as they were found to be valid.
        self._checked_keys: tuple[Any, Keys | None] = (None, None)
        self._credentials = session.get_credentials()  # those of aws/credentials.py
        url = urlsplit(client.meta.endpoint_url)
        host = url.hostname or ""
        is_tls = url.scheme == "https"
        default_port = 443 if is_tls else 80
        shown = f"[{host}]" if ":" in host else host
        self._signer = Signer(
            service, client.meta.region_name, shown if url.port in (None, default_port) else f"{shown}:{url.port}"
        )
        self._pool = HttpPool(
            host,
            url.port or default_port,
            tls=_tls(session) if is_tls else None,
            connect_timeout_s=settings.connect_timeout,
        )

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
        action = OPERATIONS[self._service][operation]
        if self._service == "sqs":
            body, content_type, target = _to_json(params).encode("ascii"), _JSON, f"AmazonSQS.{action}"
        else:
            body, content_type, target = _form(action, params), _FORM, None
        is_poll = operation == "receive_message"
        wait_s = params.get("WaitTimeSeconds", 0)
        limits = self._limits.get(wait_s)
        if limits is None:
            limits = read_timeout_s(self._settings, wait_s), answer_limit_s(self._settings, wait_s)
            self._limits[wait_s] = limits
        timeout_s, limit_s = limits
        tries = Tries(1 if is_poll else self._settings.max_attempts, self._clock, is_patient=not is_poll)
        while True:
            try:
                with Wait(limit_s):
                    headers = self._signer.headers(self._keys(), target, content_type, body, self._clock.now_s())
                    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
                    head = f"POST / HTTP/1.1\r\n{lines}{_FIXED}".encode("ascii")
                    try:
                        answer = self._pool.post(head, body, timeout_s)
                    except OSError as exc:
                        raise error_from_transport(exc, self._service, operation, self._settings) from exc
                result = self._result(operation, params, answer)
            except HakeError as exc:
                if self._telemetry is not None:
                    self._telemetry.metrics.requested(self._service, operation, exc)
                pause_s = tries.pause_s(exc) if isinstance(exc, BrokerUnavailable) else None
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                if self._telemetry is not None:
                    self._telemetry.metrics.requested(self._service, operation, None)
                return result

    def _keys(self) -> Keys:
        # Frozen: refreshable credentials are renewed here, and all parts are of one generation.
        frozen = self._credentials.get_frozen_credentials()
        known, checked_keys = self._checked_keys
        if checked_keys is not None and frozen == known:
            return checked_keys
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        text = f"{keys.access_key}{keys.token}"
        if not (text.isascii() and text.isprintable() and keys.secret_key.isprintable()):
            raise ConfigurationError("The AWS credentials contain characters that no key has, such as a line break.")
        self._checked_keys = frozen, keys
        return keys

    def _result(self, operation: str, params: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """What an answer says. Raises as :meth:`call`."""
        action = OPERATIONS[self._service][operation]
        found = _parse_json(answer) if self._service == "sqs" else _parse_query(action, answer)
        if found is None:
            format_ = "a JSON object" if self._service == "sqs" else "of its protocol"
            detail = f"status {answer.status} with {len(answer.body):,} bytes that are not {format_}"
            where = params.get("QueueUrl") or params.get("TopicArn")
            raise foreign_answer(detail, f"{self._service}:{action}", str(where))
        if answer.status == 200:
            result = checked(self._service, operation, params, found.fields)
            self._clock.learn(answer.headers.get("date"))
            return result
        refusal = error_from_answer(answer.status, found.query_error, found.fields, self._service, operation, params)
        if found.query_error or found.fields:
            is_refusal = isinstance(refusal, BrokerUnavailable) and refusal.is_clock_error
            self._clock.learn(answer.headers.get("date"), is_refusal=is_refusal)
        raise refusal


def _form(action: str, params: Mapping[str, Any]) -> bytes:
    try:
        return query.encode(action, params)
    except UnicodeEncodeError as exc:
        raise PublishError(f"sns:{action} on {params.get('TopicArn')} was not sent: {exc}") from exc


def read_timeout_s(settings: Settings, wait_s: float) -> float:
    """How long an answer may take, seconds; *wait_s* is the wait time of a long poll.

    A long poll is answered when its time is over. If it is silent for longer, the answer is lost, and waiting on would
    only delay receiving.
    """
    return max(settings.read_timeout, wait_s + min(_POLL_GRACE_S, settings.read_timeout) if wait_s else 0.0)


def answer_limit_s(settings: Settings, wait_s: float = SQS_MAX_WAIT_S) -> float:
    """How long one try of a call takes at the most, seconds; a thread that takes longer is stuck."""
    limit_s = settings.connect_timeout + read_timeout_s(settings, wait_s) + _SLACK_S
    if settings.client_config:  # may have time limits of its own
        own = [settings.client_config.get(name) for name in ("connect_timeout", "read_timeout")]
        limit_s += sum(value for value in own if isinstance(value, int | float))
    return limit_s


def _tls(session: Any) -> Any:
    """How botocore checks certificates: by the configured bundle, or its own."""
    import ssl

    # Not urllib3's, in whose place some libraries put a context of pyOpenSSL, which does not check the host's name.
    from botocore.httpsession import create_urllib3_context, get_cert_path

    configured = session._session.get_config_variable("ca_bundle")  # AWS_CA_BUNDLE, or ca_bundle of the profile
    if configured is None:
        configured = os.environ.get("REQUESTS_CA_BUNDLE")
    context = create_urllib3_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.load_verify_locations(get_cert_path(configured or True))
    return context


def _parse_json(answer: Answer) -> _Found | None:
    try:
        fields = _from_json(str(answer.body, "utf-8")) if answer.body else {}
    except (ValueError, RecursionError):
        return None
    return _Found(fields, answer.headers.get("x-amzn-query-error", "")) if isinstance(fields, dict) else None


def _parse_query(action: str, answer: Answer) -> _Found | None:
    fields = query.decode(action, answer.body)
    if answer.status == 200:
        return None if fields is None or "Error" in fields else _Found(fields)
    # As botocore: an error without AWS's format is known by its status alone.
    error = (fields or {}).get("Error") or {}
    found = {"message": error["Message"]} if error.get("Message") else {}
    return _Found(found, f"{error['Code']};{error.get('Type', '')}" if error.get("Code") else "")
