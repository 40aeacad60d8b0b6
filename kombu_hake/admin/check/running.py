"""One check from start to end: what the app expects, what AWS shows, and what differs."""

from __future__ import annotations

import shlex
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from kombu_hake.admin.check.drift import of_drift
from kombu_hake.admin.check.facts import Denied, Expected, Facts
from kombu_hake.admin.check.findings import Finding, found, in_order
from kombu_hake.admin.check.place import of_place, of_reads
from kombu_hake.admin.check.probe import Probe, Probed, of_probes
from kombu_hake.admin.check.queues import of_queues
from kombu_hake.admin.check.reading import Reader
from kombu_hake.admin.check.rights import Right, RightsReader, of_rights, usual_roles
from kombu_hake.admin.check.stores import of_stores
from kombu_hake.admin.check.subscriptions import of_topics
from kombu_hake.admin.declared import declared
from kombu_hake.admin.once import OnceClients
from kombu_hake.amqp import SQS_ATTRIBUTES_SETTLE_S
from kombu_hake.aws import Clients
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.groups import registry
from kombu_hake.topology import Drift, Topology

__all__ = ["CheckReport", "check", "judged", "unreachable_at"]

_PROBE_S = 2.0 * SQS_ATTRIBUTES_SETTLE_S
_LOCAL_PROBE_S = 5.0


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        findings: Errors first.
        rights: What the credentials may do, for each role that was checked.
        probes: The result for each kind of subscription that was probed.
        queues: Number of SQS queues that were checked; likewise *topics* and *subscriptions*.
    """

    findings: tuple[Finding, ...] = ()
    rights: tuple[Right, ...] = ()
    probes: tuple[Probed, ...] = ()
    queues: int = 0
    topics: int = 0
    subscriptions: int = 0

    @property
    def is_clean(self) -> bool:
        """True if there is neither an error nor a warning."""
        return all(finding.severity == "info" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clean": self.is_clean,
            "findings": [finding.as_dict() for finding in self.findings],
            "rights": [right.as_dict() for right in self.rights],
            "probes": [probed.as_dict() for probed in self.probes],
            "queues": self.queues,
            "topics": self.topics,
            "subscriptions": self.subscriptions,
        }


def check(
    app: Any,
    topology: Topology,
    clients: Clients,
    *,
    roles: Collection[str],
    probe: bool,
    wait_s: float | None,
    on_progress: Callable[[str], None],
    app_name: str,
) -> CheckReport:
    """Compare what an app declares with what AWS shows: see :meth:`kombu_hake.admin.connection.Admin.check`.

    Raises:
        ConfigurationError: the account is unknown.
        TopologyError: the app declares what AMQP does not know.
        BrokerUnavailable: AWS does not answer, and its endpoints can be reached.
    """
    try:
        clients.check()
        expected = _expected(app, topology, clients, app_name)
        findings, rights, facts = _looked_at(expected, topology, clients, roles)
        probes: list[Probed] = []
        if probe:
            is_late = topology.timings.attributes_s > 0
            limit_s = wait_s if wait_s is not None else _PROBE_S if is_late else _LOCAL_PROBE_S
            one = Probe(clients, topology.home, is_late=is_late, on_progress=on_progress)
            probes = one.run(expected, facts, limit_s)
    except BrokerUnavailable:
        step = _unreachable(clients)
        if step is None:
            raise
        return CheckReport((step,))
    made = expected.blueprint
    return CheckReport(
        tuple(in_order([*findings, *of_probes(probes)])), tuple(rights), tuple(probes), len(made.queues),
        len(made.topics), len(made.subscriptions),
    )  # fmt: skip


def _expected(app: Any, topology: Topology, clients: Clients, app_name: str) -> Expected:
    declarations = declared(app)
    return Expected(
        declarations,
        declarations.blueprint(clients.settings, topology.home),
        clients.settings,
        frozenset((one.group, one.topic, one.key) for one in registry.all(app)),
        shlex.quote(app_name),
    )


def _looked_at(
    expected: Expected, topology: Topology, clients: Clients, roles: Collection[str]
) -> tuple[list[Finding], list[Right], Facts]:
    """What reading finds, and what was read."""
    once = OnceClients(clients)
    reading = cast(Clients, once)
    facts = Reader(reading, topology.home).read(expected)
    rights = RightsReader(clients).read(expected, facts, roles or usual_roles(expected))
    differences = list(_differences(expected, facts, reading, topology))
    denied = [Denied(one.action, one.resource) for one in once.denied]
    findings = [*of_reads(facts, denied), *judged(expected, facts), *of_rights(expected, facts, rights)]
    findings += [one for one in differences if isinstance(one, Finding)]
    findings += of_drift(expected, [one for one in differences if isinstance(one, Drift)], findings)
    return findings, rights, facts


def judged(expected: Expected, facts: Facts) -> list[Finding]:
    """Everything that can be said of what was read. Pure."""
    parts = (of_place, of_queues, of_topics, of_stores)
    return [finding for part in parts for finding in part(expected, facts)]


def _unreachable(clients: Clients) -> Finding | None:
    """The endpoint that cannot be reached, and at which step; None if each can."""
    for service, url in clients.endpoints().items():
        step = unreachable_at(url, clients.settings.connect_timeout)
        if step is not None:
            return found("endpoint-unreachable", url, f"{service} cannot be reached. {step}")
    return None


def _differences(expected: Expected, facts: Facts, clients: Clients, topology: Topology) -> Iterator[Drift | Finding]:
    """What ``apply`` would change; a finding if that cannot be told."""
    try:
        yield from expected.declared.auditor(clients, topology.home).audit(with_undeclared=False).changes
    except BrokerUnavailable:
        raise
    except HakeError as exc:
        # An address of another region is a finding of its own.
        if not any(finding.severity == "error" for finding in of_place(expected, facts)):
            yield found("cannot-check", expected.app, f"Cannot compare with what apply would make: {exc}")


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
