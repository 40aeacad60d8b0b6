"""TLS of the hot calls: what botocore accepts, and nothing else; refused before a byte of a request is sent."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from support.http_peer import Peer, answer, echo, serving

from kombu_hake.aws.clients import Clients
from kombu_hake.aws.http import HttpPool
from kombu_hake.config.settings import load, split_url
from kombu_hake.exceptions import BrokerUnavailable

x509 = pytest.importorskip("cryptography.x509")

QUEUE_URL = "https://localhost/000000000000/q"
TOPIC = "arn:aws:sns:us-east-1:000000000000:t"
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x"}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x"}),
]
#: The hot calls by us, and by botocore.
BOTOCORE: dict[str, Any] = {"client_config": {"max_pool_connections": 10}}


class Authority(NamedTuple):
    """A certificate authority in a folder."""

    folder: Path
    key: Any
    certificate: Any

    @property
    def bundle(self) -> str:
        return str(self.folder / "ca.pem")

    def server(self, *names: str, days: int = 30, versions: tuple[Any, Any] | None = None) -> ssl.SSLContext:
        """The context of a server with a certificate for *names*, valid for *days* from now."""
        return _server(self, names or ("localhost",), days, versions)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return _authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return _authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def _authority(folder: Path) -> Authority:
    key = _key()
    certificate = _certificate(key, "Test CA", key, "Test CA", (), 30)
    (folder / "ca.pem").write_bytes(_pem(certificate))
    return Authority(folder, key, certificate)


def _server(ca: Authority, names: tuple[str, ...], days: int, versions: tuple[Any, Any] | None) -> ssl.SSLContext:
    from cryptography.hazmat.primitives import serialization

    key = _key()
    certificate = _certificate(key, "server", ca.key, "Test CA", names, days)
    path = ca.folder / f"{names[0].replace('*', 'any')}{days}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + _pem(certificate)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    if versions:
        context.minimum_version, context.maximum_version = versions
    return context


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(key: Any, name: str, issuer_key: Any, issuer: str, names: tuple[str, ...], days: int) -> Any:
    import ipaddress

    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def called(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def alternative(text: str) -> Any:
        try:
            return x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            return x509.DNSName(text)

    now = datetime.now(timezone.utc)
    is_ca = not names
    builder = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=is_ca, crl_sign=is_ca, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if names:
        others = x509.SubjectAlternativeName([alternative(one) for one in names])
        builder = builder.add_extension(others, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def aws(connection: socket.socket, peer: Peer) -> None:
    """Answer sends as AWS does."""
    while (body := peer.read(connection)) is not None:
        connection.sendall(answer(_said(body)))


def _said(body: bytes) -> bytes:
    if body.startswith(b"{"):
        return b'{"MessageId": "m"}'
    return (
        b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>m</MessageId>'
        b"</PublishResult></PublishResponse>"
    )


def make_clients(port: int, host: str = "localhost", **options: Any) -> Clients:
    options = {
        "endpoint_url": f"https://{host}:{port}", "region": "us-east-1", "max_attempts": 1, "read_timeout": 10.0,
        "connect_timeout": 10.0, **options,
    }  # fmt: skip
    return Clients(load(split_url("hake://k:s@"), options, {}))


def send(port: int, call: tuple[str, str, dict[str, Any]], host: str = "localhost", **options: Any) -> str:
    """The id of a message that was accepted, or the text of the error."""
    service, operation, params = call
    try:
        return str(getattr(make_clients(port, host, **options), service)(operation, **params)["MessageId"])
    except BrokerUnavailable as exc:
        return str(exc)


BY_BOTH = pytest.mark.parametrize("options", [{}, BOTOCORE], ids=["ours", "botocore"])
EACH_CALL = pytest.mark.parametrize("call", CALLS, ids=["sqs", "sns"])


@BY_BOTH
@EACH_CALL
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_configured_bundle_is_used(
    variable: str, call: Any, options: dict[str, Any], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, authority.bundle)
    with serving(aws, tls=authority.server()) as peer:
        assert send(peer.port, call, **options) == "m"


@BY_BOTH
def test_the_bundle_of_aws_goes_before_that_of_requests(
    options: dict[str, Any], authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", stranger.bundle)
    with serving(aws, tls=authority.server()) as peer:
        assert send(peer.port, CALLS[0], **options) == "m"


@BY_BOTH
@EACH_CALL
@pytest.mark.parametrize(
    ("why", "names", "days", "words"),
    [
        ("unknown authority", ("localhost",), 30, "certificate verify failed"),
        ("no bundle", ("localhost",), 30, "certificate verify failed"),
        ("another name", ("sqs.example.com",), 30, "match"),
        ("a name that begins alike", ("localhost.example.com",), 30, "match"),
        ("an address in place of the name", ("127.0.0.1",), 30, "match"),
        ("expired", ("localhost",), -1, "expired"),
    ],
)
def test_other_certificates_are_refused_before_anything_is_sent(
    why: str, names: tuple[str, ...], days: int, words: str, call: Any, options: dict[str, Any],
    authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if why != "no bundle":
        monkeypatch.setenv("AWS_CA_BUNDLE", (stranger if why == "unknown authority" else authority).bundle)
    with serving(aws, tls=authority.server(*names, days=days)) as peer:
        text = send(peer.port, call, **options)
        assert words in text
        assert f"localhost:{peer.port}" in text
        assert peer.requests == []


@BY_BOTH
@pytest.mark.parametrize("names", [("127.0.0.1",), ("localhost", "127.0.0.1")])
def test_the_certificate_of_an_address_is_checked_too(
    names: tuple[str, ...], options: dict[str, Any], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    with serving(aws, tls=authority.server(*names)) as peer:
        assert send(peer.port, CALLS[0], host="127.0.0.1", **options) == "m"
    with serving(aws, tls=authority.server("localhost")) as peer:
        assert "match" in send(peer.port, CALLS[0], host="127.0.0.1", **options)
        assert peer.requests == []


@BY_BOTH
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_connections_of_either_version_are_used_again(
    version: ssl.TLSVersion, options: dict[str, Any], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    with serving(aws, tls=authority.server(versions=(version, version))) as peer:
        clients = make_clients(peer.port, **options)
        for _ in range(5):
            for service, operation, params in CALLS:
                assert getattr(clients, service)(operation, **params)["MessageId"] == "m"
        assert peer.accepted == len(CALLS)


@BY_BOTH
def test_older_versions_are_refused(
    options: dict[str, Any], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context = authority.server(versions=(ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))
    with serving(aws, tls=context) as peer:
        assert "could not be reached" in send(peer.port, CALLS[0], **options)
        assert peer.requests == []


@BY_BOTH
def test_a_server_without_tls_is_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    def plain(connection: socket.socket, peer: Peer) -> None:
        peer.requests += [connection.recv(65_536)]
        connection.sendall(answer(b'{"MessageId": "m"}'))

    with serving(plain) as peer:
        assert "could not be reached" in send(peer.port, CALLS[0], **options)
        [hello] = peer.requests
        assert b"x-amz" not in hello.lower()


@BY_BOTH
def test_a_bundle_that_is_not_there_is_an_error_that_names_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with serving(aws) as peer:
        text = send(peer.port, CALLS[0], **options)
        assert text != "m"
        assert "none.pem" in text or "invalid path" in text or "No such file" in text


def test_another_library_in_place_of_ssl_does_not_switch_the_check_of_names_off(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pyopenssl.inject_into_urllib3`` replaces urllib3's context by one that ignores ``check_hostname``."""
    import urllib3.util.ssl_

    checks = ssl.SSLContext.check_hostname

    class Careless(ssl.SSLContext):
        check_hostname = False  # type: ignore[assignment]

        def wrap_socket(self, *args: Any, **kwargs: Any) -> Any:
            checks.__set__(self, False)  # type: ignore[attr-defined]
            return super().wrap_socket(*args, **kwargs)

    monkeypatch.setattr(urllib3.util.ssl_, "SSLContext", Careless)
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    with serving(aws, tls=authority.server("sqs.example.com")) as peer:
        assert "match" in send(peer.port, CALLS[0])
        assert peer.requests == []


# --- the connection


def client_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.bundle)


def pool_of(peer: Peer, authority: Authority, host: str = "localhost") -> HttpPool:
    return HttpPool(host, peer.port, tls=client_context(authority), connect_timeout_s=10.0)


HEAD = b"POST / HTTP/1.1\r\nHost: localhost"


def test_a_name_may_end_with_a_dot(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo, tls=authority.server()) as peer:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", peer.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
        pool = pool_of(peer, authority, "localhost.")
        assert pool.post(HEAD, b"x", 10.0).body == b"x"


def test_an_answer_may_come_in_many_records(authority: Authority) -> None:
    body = bytes(range(256)) * 400

    def in_records(connection: socket.socket, peer: Peer) -> None:
        while peer.read(connection) is not None:
            data = answer(body)
            for at in range(0, len(data), 1_000):
                connection.sendall(data[at : at + 1_000])

    with serving(in_records, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        for _ in range(3):
            assert pool.post(HEAD, b"x" * 100_000, 10.0).body == body
        assert peer.accepted == 1


@pytest.mark.parametrize("is_one_record", [True, False])
def test_what_follows_an_answer_is_never_the_next_one(is_one_record: bool, authority: Authority) -> None:
    is_idle, is_sent = threading.Event(), threading.Event()

    def twice(connection: socket.socket, peer: Peer) -> None:
        peer.read(connection)
        if is_one_record:
            connection.sendall(answer(b"first") + answer(b"stale"))
        else:
            connection.sendall(answer(b"first"))
            assert is_idle.wait(10)
            connection.sendall(answer(b"stale"))
        is_sent.set()
        peer.until_closed(connection)

    with serving(twice, echo, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        assert pool.post(HEAD, b"x", 10.0).body == b"first"
        is_idle.set()
        assert is_sent.wait(10)
        assert pool.post(HEAD, b"second", 10.0).body == b"second"


@pytest.mark.parametrize("is_polite", [True, False], ids=["close_notify", "FIN"])
@pytest.mark.parametrize("is_late", [True, False], ids=["after the next request", "while idle"])
def test_a_connection_that_the_server_closed_is_replaced(is_late: bool, is_polite: bool, authority: Authority) -> None:
    is_closed = threading.Event()

    def once(connection: Any, peer: Peer) -> None:
        body = peer.read(connection)
        assert body is not None
        connection.sendall(answer(body))
        if is_late:
            assert peer.read(connection) is not None
        if is_polite:
            connection.settimeout(0)
            with contextlib.suppress(ssl.SSLWantReadError, OSError):
                connection.unwrap()
        connection.shutdown(socket.SHUT_RDWR)
        is_closed.set()

    with serving(once, echo, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        assert pool.post(HEAD, b"1", 10.0).body == b"1"
        if not is_late:
            assert is_closed.wait(10)
        assert pool.post(HEAD, b"2", 10.0).body == b"2"
        assert peer.requests == ([b"1", b"2", b"2"] if is_late else [b"1", b"2"])
        assert peer.accepted == 2


def test_an_answer_that_is_cut_off_is_no_answer(authority: Authority) -> None:
    def half(connection: socket.socket, peer: Peer) -> None:
        peer.read(connection)
        connection.sendall(answer(b"half an answer")[:-3])

    with serving(half, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        with pytest.raises(OSError, match="middle"):
            pool.post(HEAD, b"x", 10.0)
        assert not pool._idle


def test_a_silent_server_is_left_in_time(authority: Authority) -> None:
    def silent(connection: socket.socket, peer: Peer) -> None:
        peer.read(connection)
        peer.until_closed(connection)

    with serving(silent, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        with pytest.raises(TimeoutError):
            pool.post(HEAD, b"x", 0.05)
        assert not pool._idle
        assert peer.was_closed.wait(10)


def test_a_handshake_that_is_not_answered_is_given_up_in_time() -> None:
    with serving(lambda connection, peer: peer.is_over.wait(60)) as peer:
        pool = HttpPool("localhost", peer.port, tls=ssl.create_default_context(), connect_timeout_s=0.1)
        with pytest.raises(TimeoutError):
            pool.post(HEAD, b"x", 10.0)


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_handshake_that_an_exception_interrupts_closes_its_socket(
    exception: type[BaseException], authority: Authority
) -> None:
    def interrupt(self: ssl.SSLSocket, *_: object) -> None:
        raise exception("injected")

    with serving(lambda connection, peer: peer.until_closed(connection)) as peer:
        pool = pool_of(peer, authority)
        with mock.patch.object(ssl.SSLSocket, "do_handshake", interrupt), pytest.raises(exception) as caught:
            pool.post(HEAD, b"x", 10.0)
        # While the traceback still refers to the socket.
        assert peer.was_closed.wait(10)
        del caught


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
def test_dead_connections_are_noticed_by_the_system(authority: Authority) -> None:
    with serving(echo, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)
        pool.post(HEAD, b"x", 10.0)
        [connection] = pool._idle
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8_000
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_refused_certificates_leave_nothing_open(authority: Authority, stranger: Authority) -> None:
    context = client_context(stranger)
    before = len(os.listdir("/proc/self/fd"))
    with serving(echo, tls=authority.server()) as peer:
        pool = HttpPool("localhost", peer.port, tls=context, connect_timeout_s=10.0)
        for _ in range(100):
            with pytest.raises(ssl.SSLCertVerificationError):
                pool.post(HEAD, b"x", 10.0)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_each_of_many_threads_gets_its_own_answers(authority: Authority) -> None:
    faults: list[bytes] = []
    with serving(echo, tls=authority.server()) as peer:
        pool = pool_of(peer, authority)

        def work(thread: int) -> None:
            for number in range(20):
                body = b"%d/%d" % (thread, number)
                if pool.post(HEAD, body, 30.0).body != body:
                    faults.append(body)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert len(peer.requests) == 160


# --- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_tls", [True, False], ids=["TLS", "plain"])
def test_a_child_uses_connections_of_its_own_and_leaves_the_parents_alone(
    is_tls: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
    with serving(aws, tls=authority.server() if is_tls else None) as peer:
        clients = make_clients(peer.port, endpoint_url=f"http{'s' if is_tls else ''}://localhost:{peer.port}")

        def send_both() -> None:
            for service, operation, params in CALLS:
                assert getattr(clients, service)(operation, **params)["MessageId"] == "m"

        send_both()
        assert peer.accepted == 2
        for child in (1, 2):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    send_both()
                    send_both()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert peer.accepted == 2 + 2 * child
            send_both()
            assert peer.accepted == 2 + 2 * child
        assert len(peer.requests) == 2 + 2 * (4 + 2)
