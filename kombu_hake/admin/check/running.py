"""One check from start to end: what the app expects, what AWS shows, and what differs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

from kombu_hake.admin.blueprint import auditor, blueprint
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
from kombu_hake.aws import Clients, unreachable_at
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.groups import registry
from kombu_hake.topology import Drift, Topology

__all__ = ["CheckReport", "check"]

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
    roles: Collection[str] = (),
    probe: bool = False,
    wait_s: float | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
    app_name: str = "APP",
) -> CheckReport:
    """Compare what an app declares with what AWS shows.

    Args:
        roles: Whose rights to look at; default: those of the app's own processes.
        probe: Also prove that SNS delivers, with a topic and queues of its own.
        wait_s: How long to wait for a probe; default: twice what a queue policy takes.
        on_progress: Called with what the probe does.
        app_name: What follows ``celery -A`` in suggested commands.
    Raises:
        ConfigurationError: the account is unknown.
        TopologyError: the app declares what AMQP does not know.
        BrokerUnavailable: AWS does not answer, and its endpoints can be reached.
    """
    try:
        clients.check()
        return _checked(app, topology, clients, roles, probe, wait_s, on_progress, app_name)
    except BrokerUnavailable:
        step = _unreachable(clients)
        if step is None:
            raise
        return CheckReport((step,))


def _checked(
    app: Any,
    topology: Topology,
    clients: Clients,
    roles: Collection[str],
    probe: bool,
    wait_s: float | None,
    on_progress: Callable[[str], None],
    app_name: str,
) -> CheckReport:
    settings, declarations = clients.settings, declared(app)
    expected = Expected(
        declarations,
        blueprint(declarations, settings, topology.home),
        settings,
        frozenset((one.group, one.topic, one.key) for one in registry.all(app)),
        shlex.quote(app_name),
    )
    once = OnceClients(clients)
    facts = Reader(cast(Clients, once), topology.home).read(expected)
    rights = RightsReader(clients).read(expected, facts, roles or usual_roles(expected))
    differences = list(_differences(expected, facts, cast(Clients, once), topology))
    denied = [Denied(one.action, one.resource) for one in once.denied]
    findings = [*of_reads(facts, denied), *judged(expected, facts), *of_rights(expected, facts, rights)]
    findings += [one for one in differences if isinstance(one, Finding)]
    findings += of_drift(expected, [one for one in differences if isinstance(one, Drift)], findings)
    probes: list[Probed] = []
    if probe:
        is_late = topology.timings.attributes_s > 0
        limit_s = wait_s if wait_s is not None else _PROBE_S if is_late else _LOCAL_PROBE_S
        probes = Probe(clients, topology.home, is_late=is_late, on_progress=on_progress).run(expected, facts, limit_s)
        findings += of_probes(probes)
    made = expected.blueprint
    return CheckReport(
        tuple(in_order(findings)), tuple(rights), tuple(probes), len(made.queues), len(made.topics),
        len(made.subscriptions),
    )  # fmt: skip


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
        yield from auditor(expected.declared, clients, topology.home).audit(with_undeclared=False).changes
    except BrokerUnavailable:
        raise
    except HakeError as exc:
        # An address of another region is a finding of its own.
        if not any(finding.severity == "error" for finding in of_place(expected, facts)):
            yield found("cannot-check", expected.app, f"Cannot compare with what apply would make: {exc}")
