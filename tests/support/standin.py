"""A stand-in for AWS on loopback: the fakes of SQS and SNS over HTTP, as quick as an emulator or as slow as AWS.

Within a test, for boto3, for a ``hake://`` connection, and for workers in other processes::

    from fake_aws import SLOW
    from support.standin import StandIn

    with StandIn(timings=SLOW) as aws:
        app = Celery(broker=aws.url("shop"))
        ...
        aws.fake.settle()       # the wait that AWS needs, in no time
        aws.fake.count("list_queue_tags")

``fake`` is a :class:`fakes.FakeClients` with a clock that runs: ``deny``, ``fail``, ``outage``, ``calls`` and
``queues`` work as in unit tests.

In a process of its own: ``python -m support.standin --slow`` in ``tests/`` prints one JSON line with ``endpoint_url``;
:class:`RemoteStandIn` starts and controls it. Put ``support.proxy`` in front of it for faults of the network.

Besides SQS (JSON) and SNS (query protocol) it answers STS ``GetCallerIdentity`` and ``AssumeRole``, and serves
credentials at ``/credentials`` for ``AWS_CONTAINER_CREDENTIALS_FULL_URI``. Signatures are not verified, but their time
is: a client whose clock is more than 15 minutes off is refused.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, quote, urlencode
from xml.sax.saxutils import escape

from fake_aws import QUICK, SIGNATURE_FAILURES, SLOW, AwsError, RunningClock, Timings
from fakes import ACCOUNT, FakeClients, manual_chores

from kombu_hake.config import Settings
from kombu_hake.topology import Topology
from kombu_hake.topology.chores import Chores

__all__ = ["RemoteStandIn", "StandIn"]

HOST = "127.0.0.1"
REGION = "us-east-1"
CONTROL_PATH, CREDENTIALS_PATH = "/__standin__", "/credentials"
JSON_TYPE = "application/x-amz-json-1.0"
REQUEST_ID = "00000000-0000-4000-8000-000000000000"
#: How far the time of a signature may be from AWS's.
SIGNATURE_S = 900.0
TESTS = Path(__file__).parents[1]
_NAMESPACES = {
    "sns": "http://sns.amazonaws.com/doc/2010-03-31/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}
_STS_ACTIONS = {"GetCallerIdentity", "AssumeRole", "AssumeRoleWithWebIdentity"}
_FLAGS = {"ReturnSubscriptionArn", "AuthenticateOnUnsubscribe"}


class StandIn:
    """The server, with its threads in this process.

    Args:
        timings: ``QUICK``, ``SLOW``, or others.
        region: Of everything in it; clients must use the same.
        port: Port on 127.0.0.1; 0 takes a free one.
    """

    def __init__(self, timings: Timings = QUICK, *, region: str = REGION, port: int = 0) -> None:
        self._server = _Server((HOST, port), _Handler)
        self._thread: threading.Thread | None = None
        self.region = region
        #: Prefix of the names in it, as of an emulator. Each stand-in is an account of its own.
        self.namespace = "standin"
        self.clock = RunningClock()
        self.fake = FakeClients(self.clock, timings=timings, region=region, url_base=self.endpoint_url)
        #: How long keys live that it gives out; botocore renews them ten minutes before at the latest.
        self.credentials_live_s = 3_600.0
        #: What a request for keys is refused with, if anything.
        self.credentials_fail: AwsError | None = None
        self._chores: list[Chores] = []
        self._server.stand_in = self

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def url(self, namespace: str | None = None, **options: object) -> str:
        """A ``hake://`` broker URL; ``options`` go to its query."""
        query = urlencode({"region": self.region, **options})
        namespace = self.namespace if namespace is None else namespace
        return f"hake://test:test@{HOST}:{self.port}/{quote(namespace, safe='')}?{query}"

    def client(self, service: str) -> Any:
        """A boto3 client."""
        return _boto_client(service, self.endpoint_url, self.region)

    def start(self) -> StandIn:
        """Serve; returns when connections are accepted."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="stand-in", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """End open polls, close every connection and stop. Idempotent."""
        self.fake.end()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.close_all()
        self._server.server_close()

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pass_time(self, seconds: float) -> None:
        """Let AWS's time pass in steps of five seconds, with the background work of :meth:`taken_for_aws`."""
        while seconds > 0:
            self.clock.advance(min(seconds, 5.0))
            seconds -= 5.0
            for chores in list(self._chores):
                chores.work()

    @contextlib.contextmanager
    def taken_for_aws(self) -> Iterator[None]:
        """Have connections that this process makes take the stand-in for AWS, though it is on loopback.

        The package then waits for AWS as long as it does for a user on AWS, by the clock of the stand-in: a pause
        advances that clock, and background work of topology is done by :meth:`pass_time`, in the caller's thread.
        """

        def topology(clients: Any, settings: Settings) -> Topology:
            chores = manual_chores(self.clock)
            self._chores.append(chores)
            return Topology(clients, settings, clock=self.clock, chores=chores)

        with (
            mock.patch.object(Settings, "is_local", False),
            mock.patch("kombu_hake.transport.Topology", topology),
            mock.patch("time.sleep", self.clock.advance),
        ):
            yield

    def keys(self) -> tuple[str, str, str, str]:
        """New temporary keys: id, secret, token, and when they expire."""
        if self.credentials_fail is not None:
            raise self.credentials_fail
        expires = datetime.fromtimestamp(self.clock(), timezone.utc) + timedelta(seconds=self.credentials_live_s)
        return "ASIASTANDINSTANDIN00", "secret", "token", expires.strftime("%Y-%m-%dT%H:%M:%SZ")

    def control(self, changes: dict[str, Any]) -> dict[str, Any]:
        """What :meth:`RemoteStandIn.control` asks for; the state afterwards."""
        fake = self.fake
        if "timings" in changes:
            fake.use(timings_of(changes["timings"]))
        if changes.get("settle"):
            fake.settle()
        if "advance_s" in changes:
            self.clock.advance(float(changes["advance_s"]))
        if "outage" in changes:
            fake.outage = _raiser(changes["outage"])
        if "credentials_fail" in changes:
            failure = _raiser(changes["credentials_fail"])
            self.credentials_fail = failure() if failure else None
        if "credentials_live_s" in changes:
            self.credentials_live_s = float(changes["credentials_live_s"])
        if changes.get("reset_calls"):
            fake.calls.clear()
        with fake.changed:
            return {
                "pid": os.getpid(),
                "calls": dict(fake.counts()),
                "refused": dict(fake.budgets.refused),
                "lost": list(fake.topics.lost),
                "messages": {name: len(queue.messages) for name, queue in fake.queues.by_name.items()},
                "topics": list(fake.topics.by_name),
                "timings": dataclasses.asdict(fake.queues.timings),
            }


def timings_of(wanted: str | dict[str, Any]) -> Timings:
    """``"quick"``, ``"slow"``, or fields that differ from those of the slow one."""
    if isinstance(wanted, str):
        return {"quick": QUICK, "slow": SLOW}[wanted]
    return dataclasses.replace(SLOW, **wanted)


def _raiser(wanted: Any) -> Any:
    """None; a name of :data:`SIGNATURE_FAILURES`; or ``{"code", "text", "status"}``."""
    if not wanted:
        return None
    if isinstance(wanted, str):
        return SIGNATURE_FAILURES[wanted]
    return lambda: AwsError(wanted["code"], wanted.get("text", wanted["code"]), wanted.get("status"))


def _boto_client(service: str, endpoint_url: str, region: str) -> Any:
    import boto3

    return boto3.client(
        service, endpoint_url=endpoint_url, region_name=region, aws_access_key_id="test", aws_secret_access_key="test"
    )


class RemoteStandIn:
    """A stand-in in a process of its own: shares neither memory nor the interpreter lock with the code under test.

    Args:
        timings: As of :func:`timings_of`.
    """

    def __init__(self, timings: str | dict[str, Any] = "quick", *, region: str = REGION) -> None:
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.standin", "--region", region],
            cwd=TESTS,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self._process.stdout is not None
        self.region = region
        self.port = int(json.loads(self._process.stdout.readline())["port"])
        self.control(timings=timings)

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def url(self, namespace: str = "", **options: object) -> str:
        """As :meth:`StandIn.url`."""
        query = urlencode({"region": self.region, **options})
        return f"hake://test:test@{HOST}:{self.port}/{quote(namespace, safe='')}?{query}"

    def client(self, service: str) -> Any:
        """A boto3 client."""
        return _boto_client(service, self.endpoint_url, self.region)

    def control(self, **changes: Any) -> dict[str, Any]:
        """Change and read its state.

        Args:
            timings: As of :func:`timings_of`.
            settle: True: every change is seen and in effect from now on.
            advance_s: Let AWS's clock jump.
            outage: What each call is answered with from now on: None, a name of ``fake_aws.SIGNATURE_FAILURES``, or
                ``{"code": …, "text": …, "status": …}``.
            credentials_fail: The same for requests to STS and ``/credentials``.
            credentials_live_s: How long keys live that it gives out.
            reset_calls: True: count calls anew.
        Returns:
            ``calls`` by operation, ``refused`` (throttled) by operation, ``lost`` deliveries of SNS with the reason,
            ``messages`` by queue, ``topics``, ``timings`` and ``pid``.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("POST", CONTROL_PATH, json.dumps(changes))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body.decode()
            found: dict[str, Any] = json.loads(body)
            return found
        finally:
            connection.close()

    def stop(self) -> None:
        """End the process. Idempotent."""
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> RemoteStandIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """One thread a connection: a worker that polls thirty queues has thirty."""

    daemon_threads = True
    request_queue_size = 512
    stand_in: StandIn

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def server_bind(self) -> None:
        """As of the base class, without asking a name server for our name."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are part of the tests; anything else is a fault of the stand-in and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close_all(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one write
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Tests have logs of their own."""

    def do_GET(self) -> None:
        if self.path.startswith(CREDENTIALS_PATH):
            self._give_credentials()
        else:
            self._send(404, "text/plain", b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        stand_in = self.server.stand_in
        if self.path == CONTROL_PATH:
            try:
                self._send(200, "application/json", json.dumps(stand_in.control(json.loads(body or b"{}"))).encode())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._send(400, "text/plain", repr(error).encode())
            return
        target = self.headers.get("X-Amz-Target")
        if target:
            self._serve_sqs(target.rpartition(".")[2], body)
        else:
            self._serve_query(dict_of_form(body))

    # --- services

    def _serve_sqs(self, action: str, body: bytes) -> None:
        try:
            params = _with_bytes(json.loads(body or b"{}"))
            answer = self._call("sqs", action, params)
        except AwsError as error:
            document = {"__type": f"com.amazonaws.sqs#{error.shape}", "message": error.text}
            fault = "Sender" if error.is_senders else "Receiver"
            self._send(
                error.status, JSON_TYPE, json.dumps(document).encode(), {"x-amzn-query-error": f"{error.code};{fault}"}
            )
        else:
            self._send(200, JSON_TYPE, json.dumps(_with_texts(answer)).encode())

    def _serve_query(self, fields: dict[str, Any]) -> None:
        action = fields.pop("Action", "")
        fields.pop("Version", None)
        service = "sts" if action in _STS_ACTIONS else "sns"
        try:
            answer = self._sts(action) if service == "sts" else self._call("sns", action, fields)
        except AwsError as error:
            fault = "Sender" if error.is_senders else "Receiver"
            xml = (
                f'<ErrorResponse xmlns="{_NAMESPACES[service]}"><Error><Type>{fault}</Type><Code>{error.code}</Code>'
                f"<Message>{escape(error.text)}</Message></Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
            )
            self._send(error.status, "text/xml", xml.encode())
        else:
            xml = (
                f'<{action}Response xmlns="{_NAMESPACES[service]}"><{action}Result>{_xml(answer)}</{action}Result>'
                f"<ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
            )
            self._send(200, "text/xml", xml.encode())

    def _call(self, service: str, action: str, params: dict[str, Any]) -> dict[str, Any]:
        self._check_signature()
        fake = self.server.stand_in.fake
        operation = re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower()
        backend = fake.queues if service == "sqs" else fake.topics
        if operation.startswith("_") or not callable(getattr(backend, operation, None)):
            raise AwsError("InvalidAction", f"The stand-in has no {service}:{action}.")
        try:
            return fake.call(service, operation, params)
        except TypeError as error:  # a parameter that the fake does not know
            raise AwsError("InvalidParameterValue", f"{action}: {error}") from error

    def _check_signature(self) -> None:
        text = self.headers.get("X-Amz-Date")
        if not self.headers.get("Authorization") or not text:
            raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
        try:
            signed = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            raise AwsError("IncompleteSignature", f"Date must be in ISO-8601 'basic format'. Got '{text}'.") from None
        now = self.server.stand_in.clock()
        if abs(now - signed) <= SIGNATURE_S:
            return
        now_text = datetime.fromtimestamp(now, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        found = "Signature expired" if signed < now else "Signature not yet current"
        raise AwsError("SignatureDoesNotMatch", f"{found}: {text}; it is {now_text} here, and 15 min. are allowed.")

    def _sts(self, action: str) -> dict[str, Any]:
        stand_in = self.server.stand_in
        if action == "GetCallerIdentity":
            stand_in.fake.calls.append(("get_caller_identity", {}))
            return {"Arn": f"arn:aws:iam::{ACCOUNT}:user/test", "UserId": "AIDASTANDIN", "Account": ACCOUNT}
        stand_in.fake.calls.append(("assume_role", {}))
        key, secret, token, expires = stand_in.keys()
        return {
            "Credentials": {
                "AccessKeyId": key,
                "SecretAccessKey": secret,
                "SessionToken": token,
                "Expiration": expires,
            },
            "AssumedRoleUser": {
                "AssumedRoleId": "AROASTANDIN:test",
                "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/test/test",
            },
        }

    def _give_credentials(self) -> None:
        """As the agent of ECS and EKS."""
        stand_in = self.server.stand_in
        stand_in.fake.calls.append(("credentials", {}))
        try:
            key, secret, token, expires = stand_in.keys()
        except AwsError as error:
            document = {"code": error.code, "message": error.text}
            self._send(error.status, "application/json", json.dumps(document).encode())
            return
        answer = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": expires}
        self._send(200, "application/json", json.dumps(answer).encode())

    # --- HTTP

    def _send(self, status: int, content_type: str, body: bytes, headers: Iterable[Any] | dict[str, str] = ()) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(self.server.stand_in.clock(), usegmt=True))
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", REQUEST_ID)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


# ---- the JSON protocol: binary values are base64


def _with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: base64.b64decode(item) if name == "BinaryValue" and isinstance(item, str) else _with_bytes(item)
            for name, item in value.items()
        }
    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


def _with_texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _with_texts(item) for name, item in value.items()}
    return [_with_texts(item) for item in value] if isinstance(value, list) else value


# ---- the query protocol


def dict_of_form(body: bytes) -> dict[str, Any]:
    """The parameters of a query request, with boto3's structure."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return {name: _shaped(name, value) for name, value in tree.items()}


def _shaped(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        if name in _FLAGS:
            return value == "true"
        return base64.b64decode(value) if name == "BinaryValue" else value
    if "member" in value:
        return [_shaped("", value["member"][number]) for number in sorted(value["member"], key=int)]
    if "entry" in value:
        entries = (value["entry"][number] for number in sorted(value["entry"], key=int))
        return {
            entry.get("key", entry.get("Name")): _shaped("", entry.get("value", entry.get("Value")))
            for entry in entries
        }
    return {key: _shaped(key, item) for key, item in value.items()}


def _xml(value: Any, name: str = "") -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "".join(f"<member>{_xml(item)}</member>" for item in value)
    if isinstance(value, dict) and name == "Attributes":
        return "".join(
            f"<entry><key>{escape(key)}</key><value>{escape(item)}</value></entry>" for key, item in value.items()
        )
    if isinstance(value, dict):
        return "".join(f"<{key}>{_xml(item, key)}</{key}>" for key, item in value.items())
    return escape(str(value))


def main() -> None:
    """Serve until killed, or until the process that started it ends; the first line printed names the endpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="be as slow as AWS")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--region", default=REGION)
    options = parser.parse_args()
    with StandIn(SLOW if options.slow else QUICK, region=options.region, port=options.port) as aws:
        line = {"endpoint_url": aws.endpoint_url, "port": aws.port, "url": aws.url()}
        print(json.dumps(line), flush=True)
        parent, ended = os.getppid(), threading.Event()
        while os.getppid() == parent:
            ended.wait(1.0)


if __name__ == "__main__":
    main()
