"""The interface to AWS: only this module makes boto3's clients, and only here a botocore error becomes one of ours.

Other packages call ``clients.sqs("send_message", QueueUrl=…)`` and get a dict or a :class:`HakeError`. Tests use an
object with the same methods instead.

boto3 is imported, and its clients are created, at the first call: importing stays light, and a forked child creates its
own (neither botocore nor urllib3 handles forks: parent and child would share TLS sockets).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from kombu_hake._version import __version__
from kombu_hake.amqp import MAX_PAYLOAD_BYTES, SQS_MAX_WAIT_S
from kombu_hake.aws import forksafe
from kombu_hake.aws.answers import checked, has_request_id, looks_like_success
from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.concurrency import SharedParts
from kombu_hake.aws.credentials import Credentials
from kombu_hake.aws.error_table import aws_operation, credentials_error, error_for, foreign_answer, unreachable
from kombu_hake.aws.pulse import Wait
from kombu_hake.aws.retry import NewQueues, Tries
from kombu_hake.aws.s3 import LONGEST_UPLOAD_S, PART_BYTES, ObjectClient
from kombu_hake.aws.timely import bound_pool, read_body
from kombu_hake.aws.wire import OPERATIONS, Wire, answer_limit_s, read_timeout_s
from kombu_hake.config import Access, Settings
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    HakeError,
    InvalidName,
    QueueNotFound,
)
from kombu_hake.telemetry import load as load_telemetry

__all__ = ["Clients", "boto_client", "shared_clients"]

#: How long a success proves that AWS can be reached, for :meth:`Clients.check`.
_FRESH_S = 10.0
#: A poller is a thread that holds a connection for up to twenty seconds. urllib3 drops connections for which its pool
#: has no room, and each dropped connection costs a TLS handshake.
_POOL_CONNECTIONS = 64
#: How long a throttled control call is retried. Fifty workers that start at once exceed thirty calls a second in a
#: small region. Each of them must succeed eventually, and starting over would only add to the load.
_PATIENCE_S = 90.0
#: Kinds of calls that are tried once: their callers have a back-off of their own, or an alternative.
_TRIED_ONCE = ("receive", "check", "sts", "iam", "s3")
#: By kind of a call, the service that it is made to, where that has another name.
_SERVICES = {"receive": "sqs", "check": "sqs"}
#: An upload or download is one call, and a request for each part.
_MOST_PARTS = 2 + MAX_PAYLOAD_BYTES // PART_BYTES


class Clients:
    """boto3 clients for one :class:`Settings` in one process. Safe to share between threads.

    There are several, because each kind of call has its own timeouts: long polls wait longer than other calls may, and
    the first check that AWS answers must not take longer than the connect timeout. :mod:`kombu_hake.aws.retry` decides
    what is retried, and how often.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: What is to be reported to OpenTelemetry goes here; None where that is off.
        self.telemetry = load_telemetry() if settings.telemetry else None
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish while this thread holds it
        self._made: dict[str, Any] = {}
        #: The wire of each service, or False if it cannot be used.
        self._wires: dict[str, Wire | Literal[False]] = {}
        self._last_success = float("-inf")
        #: Region and partition, once known.
        self._found_at: tuple[str, str] | None = None
        self._inherited: list[tuple[Any, ...]] = []
        self._clock = AwsClock()
        self._new_queues = NewQueues()
        #: Those of predefined queues and exchanges with keys or a region of their own.
        self._others: dict[Access, Clients] = {}
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Use new clients in the child, created when needed."""
        self._lock = threading.RLock()
        # Keep them alive: finalizing the parent's connection pools would wait for locks that no thread here releases.
        self._inherited.append((self._made, self._wires))
        self._made = {}
        self._wires = {}

    def sqs(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call SQS.

        Args:
            operation: boto3's name, such as ``send_message_batch``.
        Raises:
            HakeError: the failure, mapped by :mod:`kombu_hake.aws.error_table`.
        """
        while True:
            try:
                other = self._other(params.get("QueueUrl")) if self.settings.access else None
                if other is not None:
                    answer = other.sqs(operation, **params)
                else:
                    answer = self._call("receive" if operation == "receive_message" else "sqs", operation, params)
            except QueueNotFound:
                pause_s = self._new_queues.pause_s(params.get("QueueUrl"))
                if pause_s is None or operation == "delete_queue":
                    raise
                time.sleep(pause_s)
                continue
            if operation == "create_queue" and not self.settings.is_local:
                self._new_queues.created(answer["QueueUrl"])
            elif operation == "delete_queue":
                self._new_queues.deleted(params["QueueUrl"])
            return answer

    def sns(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call SNS; as :meth:`sqs`."""
        if self.settings.access:
            topic = params.get("TopicArn") or str(params.get("SubscriptionArn", "")).rpartition(":")[0]
            other = self._other(topic)
            if other is not None:
                return other.sns(operation, **params)
        return self._call("sns", operation, params)

    def cloudwatch(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call CloudWatch, for operators; as :meth:`sqs`."""
        return self._call("cloudwatch", operation, params)

    def iam(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call IAM, for operators; as :meth:`sqs`, but tried once."""
        return self._call("iam", operation, params)

    def s3(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call S3, by an operation of :class:`kombu_hake.aws.s3.ObjectClient`; as :meth:`sqs`.

        Raises:
            PayloadMissing: there is no such object.
        """
        return self._call("s3", operation, params)

    def check(self) -> None:
        """Check that AWS answers and accepts the credentials, with one cheap request unless checked recently.

        Raises:
            BrokerUnavailable: no answer within the connect timeout.
            ConfigurationError: no region, no credentials, or credentials that AWS does not accept.
            AccessDenied: AWS denies assuming the role.
        """
        if time.monotonic() - self._last_success < _FRESH_S:
            return
        try:
            name = self.settings.namer.queue("hake-connection-check")
        except InvalidName:  # with name_style=kombu, a long prefix leaves little room
            name = self.settings.namer.queue("h")
        try:
            self._call("check", "get_queue_url", {"QueueName": name})
        except ConfigurationError:
            raise
        except HakeError as exc:
            if unreachable(exc) or (isinstance(exc, AccessDenied) and exc.action.startswith("sts:")):
                raise
        self._last_success = time.monotonic()

    def now_ms(self) -> int:
        """Ms since the epoch by AWS's clock, if known from its answers; otherwise by ours."""
        return int(self._clock.now_s() * 1000)

    @property
    def clock_offset_s(self) -> float:
        """Seconds to add to this machine's clock to get AWS's; 0 until an answer told."""
        return self._clock.offset_s

    def region(self) -> str:
        """The region in use. Needs no credentials if it is configured."""
        return self._where()[0]

    def partition(self) -> str:
        """The partition in use, such as ``aws`` or ``aws-cn``. Needs no credentials if the region is configured."""
        return self._where()[1]

    def _where(self) -> tuple[str, str]:
        if self._found_at is None:
            try:
                meta = self._client("sqs").meta
                self._found_at = str(meta.region_name), str(meta.partition)
            except ConfigurationError:  # such as no credentials, which exports for another machine do without
                if self.settings.region is None:
                    raise
                self._found_at = self.settings.region, _partition_of(self.settings.region)
        return self._found_at

    def sqs_endpoint(self) -> str:
        """The endpoint of SQS, such as ``https://sqs.eu-west-1.amazonaws.com``."""
        return str(self._client("sqs").meta.endpoint_url).rstrip("/")

    def endpoints(self) -> dict[str, str]:
        """Service to the URL of its endpoint, for ``sqs`` and ``sns``."""
        return {name: str(self._client(name).meta.endpoint_url).rstrip("/") for name in ("sqs", "sns")}

    def caller_account(self) -> str:
        """The account of the credentials, from STS, which needs no permission. Raises as :meth:`sqs`."""
        return str(self._call("sts", "get_caller_identity", {})["Account"])

    def caller_arn(self) -> str:
        """The user or the assumed role of the credentials, from STS; as :meth:`caller_account`."""
        return str(self._call("sts", "get_caller_identity", {}).get("Arn", ""))

    def _call(self, kind: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        service = _SERVICES.get(kind, kind)
        if operation in OPERATIONS.get(service, ()):
            wire = self._wires.get(service)
            if wire is None:
                wire = self._find_wire(service)
            if wire:
                try:
                    answer = wire.call(operation, params)
                except ConfigurationError as exc:
                    raise self._known_keys_refused(exc) from exc
                self._last_success = time.monotonic()
                return answer
        is_control = kind in ("sqs", "sns") and not operation.startswith("publish")
        is_once = kind in _TRIED_ONCE
        tries = Tries(
            1 if is_once or "retries" in self.settings.client_config else self.settings.max_attempts,
            self._clock,
            throttled_s=_PATIENCE_S if is_control else 0.0,
            is_patient=not is_once,
        )
        limit_s = answer_limit_s(self.settings)
        if kind == "s3":
            limit_s = limit_s * _MOST_PARTS + LONGEST_UPLOAD_S
        while True:
            try:
                with Wait(limit_s):
                    return self._try(kind, operation, params)
            except BrokerUnavailable as exc:
                pause_s = tries.pause_s(exc)
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _try(self, kind: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        service = _SERVICES.get(kind, kind)
        call = getattr(self._made.get(kind) or self._client(kind), operation)
        try:
            answer: dict[str, Any] = call(**params)
        except MemoryError:
            raise
        except Exception as exc:
            error = error_for(exc, service, operation, params, self.settings)
            if error is None:
                # botocore has validated the arguments already. A KeyError, ValueError or AttributeError of its parsers
                # is caused by an answer: of the service, or of the source of the credentials.
                error = foreign_answer(repr(exc), f"{service}:{operation}", "AWS")
            if self.telemetry is not None:
                self.telemetry.metrics.requested(service, aws_operation(operation), error)
            is_refusal = isinstance(error, BrokerUnavailable) and error.is_clock_error
            if is_refusal or not unreachable(error):
                self._learn_clock(getattr(exc, "response", None), is_refusal=is_refusal)
            raise (self._known_keys_refused(error) if isinstance(error, ConfigurationError) else error) from exc
        answer = checked(service, operation, params, answer)
        if self.telemetry is not None:
            self.telemetry.metrics.requested(service, aws_operation(operation), None)
        self._last_success = time.monotonic()
        self._learn_clock(answer)
        return answer

    def _other(self, address: str | None) -> Clients | None:
        """The clients of a queue URL or topic ARN that has keys or a region of its own."""
        access = self.settings.access.get(address or "")
        if access is None:
            return None
        with self._lock:
            if access not in self._others:
                keys: dict[str, Any] = {}
                if access.access_key_id:
                    keys = {
                        "access_key_id": access.access_key_id,
                        "secret_access_key": access.secret_access_key,
                        "session_token": access.session_token,
                        "profile": None,
                    }
                region = access.region or self.region()
                other = Clients(replace(self.settings, region=region, access={}, **keys))
                other._clock = self._clock
                self._others[access] = other
            return self._others[access]

    def _learn_clock(self, answer: Any, *, is_refusal: bool = False) -> None:
        """From an answer of boto3, or the one in its error."""
        metadata = (answer or {}).get("ResponseMetadata") or {}
        self._clock.learn((metadata.get("HTTPHeaders") or {}).get("date"), is_refusal=is_refusal)

    def _known_keys_refused(self, error: ConfigurationError) -> HakeError:
        """Keys that worked before are being replaced: messages that are held must not be lost meanwhile."""
        if self._last_success == float("-inf"):
            return error
        return BrokerUnavailable(f"{error} They worked before in this process, so the call may be retried.")

    def _find_wire(self, service: str) -> Wire | Literal[False]:
        client = self._client(service)
        with self._lock:
            if service not in self._wires:
                try:
                    self._wires[service] = Wire.can_serve(client, self.settings) and Wire(
                        service, self._made["session"], client, self.settings, self._clock, self.telemetry
                    )
                except (OSError, ImportError) as exc:  # the certificate bundle is a file
                    raise BrokerUnavailable(f"The client of {service} cannot be created: {exc}") from exc
            return self._wires[service]

    def _client(self, kind: str) -> Any:
        # boto3 sessions are not safe to create clients from concurrently (boto3 guide, "Clients").
        with self._lock:
            if kind not in self._made:
                try:
                    session = self._made.get("session") or _session(self.settings, self._clock)
                    self._made["session"] = session
                    self._made[kind] = _client(session, self.settings, kind)
                except (OSError, ImportError) as exc:  # such as no file descriptors left: botocore reads files here
                    service = _SERVICES.get(kind, kind)
                    raise BrokerUnavailable(f"The client of {service} cannot be created: {exc}") from exc
            return self._made[kind]


def _partition_of(region: str) -> str:
    import boto3
    import botocore.exceptions

    try:
        return str(boto3.Session().get_partition_for_region(region))
    except botocore.exceptions.UnknownRegionError:
        return "aws"  # as botocore assumes of a region that is newer than its list


def _session(settings: Settings, clock: AwsClock) -> Any:
    import boto3
    import botocore.exceptions

    try:
        session = boto3.Session(
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key,
            aws_session_token=settings.session_token,
            region_name=settings.region,
            profile_name=settings.profile,
        )
    except botocore.exceptions.ProfileNotFound as exc:
        raise ConfigurationError(f"Option profile: {exc}. See ~/.aws/config, or leave the option out.") from exc
    _share_descriptions(session)
    faults = []
    if not session.region_name:
        faults.append(
            "No AWS region. Set the option region (hake://?region=eu-west-1), AWS_REGION, or the profile's region."
        )
    try:
        found = session.get_credentials()
    except Exception as exc:  # the source (a process, a metadata service) may raise anything
        raise credentials_error(exc) from exc
    if found is None:
        # As in sqs://, only the queues may have keys. Those of the first queue are used where none are given.
        first = next((access for access in settings.access.values() if access.access_key_id), None)
        if first is not None and not faults:
            return _session(
                replace(
                    settings,
                    access_key_id=first.access_key_id,
                    secret_access_key=first.secret_access_key,
                    session_token=first.session_token,
                    access={},
                ),
                clock,
            )
        faults.append(
            "No AWS credentials. Give the machine a role, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "set the option profile, or write key and secret before the @ of the URL. A role has no credentials while "
            "the metadata service of the machine does not answer."
        )
    if faults:
        raise ConfigurationError(faults)
    _use(session, Credentials(found, clock), clock)
    return _assume(session, settings, clock) if settings.role_arn else session


#: botocore's loader of each search path, with the descriptions of services that it has parsed.
_loaders: dict[str | None, Any] = {}


def _share_descriptions(session: Any) -> None:
    """Have a boto3 session use the service descriptions that this process, or the one that forked it, has parsed.

    Parsing them is most of the work of making a client. A child of Celery's pool makes one for its first publish, which
    with ``max-tasks-per-child=1`` is every publish. Clients only read them.
    """
    inner = session._session
    loader = _loaders.setdefault(inner.get_config_variable("data_path"), inner.get_component("data_loader"))
    inner.register_component("data_loader", loader)


def _use(session: Any, credentials: Credentials, clock: AwsClock) -> None:
    """Have a boto3 session sign with these credentials, and by AWS's clock."""

    def sign_by_clock(request_signer: Any, **_: Any) -> None:
        if "get_auth_instance" in vars(request_signer):
            return
        made = request_signer.get_auth_instance

        def get_auth_instance(*args: Any, **kwargs: Any) -> Any:
            auth = made(*args, **kwargs)
            prepare: Callable[[Any], None] | None = getattr(auth, "_modify_request_before_signing", None)
            if prepare is not None:  # botocore calls it between reading the clock and signing
                auth._modify_request_before_signing = partial(_set_time, clock, prepare)
            return auth

        request_signer.get_auth_instance = get_auth_instance

    session._session._credentials = credentials
    session.events.register("before-sign", sign_by_clock)


def _set_time(clock: AwsClock, prepare: Callable[[Any], None], request: Any) -> None:
    request.context["timestamp"] = clock.stamp()
    prepare(request)


def _assume(session: Any, settings: Settings, clock: AwsClock) -> Any:
    """A session with the keys of the assumed role, which botocore renews before they expire."""
    import boto3
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.session import Session as BotocoreSession

    def sts(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("endpoint_url", settings.endpoint_url)
        client = session.client("sts", config=_config(settings, "sts"), endpoint_url=kwargs["endpoint_url"])
        _guard(client)
        return client

    fetcher = AssumeRoleCredentialFetcher(
        client_creator=sts,
        source_credentials=session.get_credentials(),
        role_arn=str(settings.role_arn),
        extra_args={"RoleSessionName": "kombu_hake", "DurationSeconds": settings.role_duration},
    )
    inner = BotocoreSession()
    assumed = boto3.Session(botocore_session=inner, region_name=session.region_name)
    _share_descriptions(assumed)
    source = DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method="assume-role")
    _use(assumed, Credentials(source, clock, settings.role_arn), clock)
    return assumed


def _config(settings: Settings, kind: str) -> Any:
    import botocore
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    long_poll = kind == "receive"
    defaults: dict[str, Any] = {
        "connect_timeout": settings.connect_timeout,
        "read_timeout": read_timeout_s(settings, SQS_MAX_WAIT_S if long_poll else 0),
        "retries": {"mode": "standard", "total_max_attempts": 1},  # aws/retry.py decides about retries
        "max_pool_connections": _POOL_CONNECTIONS,
        "tcp_keepalive": True,
        # botocore computes its default again for each call, which takes a tenth of the call's CPU time.
        "user_agent": f"kombu_hake/{__version__} Botocore/{botocore.__version__}",
    }
    if kind == "s3":
        # Parts of an upload are requests of the transfer manager, so only the SDK can try one of them again.
        defaults["retries"] = {"mode": "standard", "total_max_attempts": settings.max_attempts}
        if settings.endpoint_url:  # an emulator has no host name for each bucket
            defaults["s3"] = {"addressing_style": "path"}
    if kind == "check":  # a single try, within the connect timeout
        defaults.update(read_timeout=settings.connect_timeout)
    if kind in ("sts", "iam"):  # a VPC without an endpoint for them drops packets: fail soon, there are other ways
        defaults.update(connect_timeout=min(3.0, settings.connect_timeout))
    try:
        return Config(**{**defaults, **settings.client_config})
    except (AttributeError, TypeError, ValueError, BotoCoreError) as exc:
        text = str(exc).rstrip(".")
        raise ConfigurationError(
            f"Option client_config: {text}. See botocore.config.Config for what it takes."
        ) from exc


def _client(session: Any, settings: Settings, kind: str) -> Any:
    service = _SERVICES.get(kind, kind)
    endpoints: Mapping[str, str | None] = {"sqs": settings.sqs_endpoint_url, "sns": settings.sns_endpoint_url}
    endpoint = endpoints.get(service) or settings.endpoint_url
    config = _config(settings, kind)
    try:
        client = session.client(service, endpoint_url=endpoint, config=config)
    except ValueError as exc:
        text = str(exc).rstrip(".")
        raise ConfigurationError(
            f"Cannot create a client for {service}: {text}. Check endpoint_url, region and client_config."
        ) from exc
    _guard(client)
    return ObjectClient(client) if kind == "s3" else client


def _guard(client: Any) -> None:
    """Check the bodies of answers before botocore parses them."""
    model = client.meta.service_model
    protocol = getattr(model, "resolved_protocol", None) or model.metadata["protocol"]
    client._endpoint.http_session = _GuardedSession(client._endpoint.http_session, protocol)


class _GuardedSession:
    """botocore's HTTP session, with the size and time of answers bounded and their format checked.

    botocore reads a body of any size, accepts a truncated body, and accepts HTML as a successful answer of a service
    that uses JSON.
    """

    def __init__(self, session: Any, protocol: str) -> None:
        self._session = session
        self._protocol = protocol
        pools = session._pool_classes_by_scheme  # its pool managers, those of proxies included, have the same dict
        pools.update({scheme: bound_pool(pool) for scheme, pool in pools.items()})

    def send(self, request: Any) -> Any:
        """Send a prepared request."""
        import urllib3
        from botocore.exceptions import HTTPClientError

        is_download = self._protocol == "rest-xml" and request.stream_output
        request.stream_output = True  # the body is read below
        response = self._session.send(request)
        is_success = 200 <= response.status_code < 300
        if is_success and is_download and has_request_id(response.headers):
            return response  # an object, of which the caller reads as much as it asked for
        try:
            response._content = read_body(response.raw)
            # An object may hold anything, and S3 answers an upload with nothing: only the headers tell that it is S3.
            is_aws = self._protocol != "rest-xml" or has_request_id(response.headers)
            if is_success and not (is_aws and looks_like_success(self._protocol, response._content)):
                size = len(response._content)
                raise BrokerUnavailable(
                    f"{request.url} answered with {size:,} bytes that are not AWS's (status {response.status_code}). "
                    "A proxy, a portal or another server may answer in its place."
                )
        except (BrokerUnavailable, urllib3.exceptions.HTTPError, OSError) as exc:
            raise HTTPClientError(error=exc) from exc  # botocore retries this one
        return response

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


#: Unused clients to keep, for scripts that close a connection and open the next. Bounded, as settings may differ
#: each time.
_MOST_UNUSED = 8
_shared: SharedParts[str, Any] = SharedParts(_MOST_UNUSED)


def shared_clients(settings: Settings, build: Callable[[Settings], Any]) -> Any:
    """Return one ``build(settings)`` for all equal settings in this process, so that connections share clients.

    Keep a reference to the result for as long as it is used.
    """
    return _shared.get(settings.key(), lambda: build(settings))


def boto_client(service: str, *, endpoint_url: str, region: str, key: str, secret: str) -> Any:
    """A bare boto3 client, for :mod:`kombu_hake.testing` and for scripts against an emulator."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
