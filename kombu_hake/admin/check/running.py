"""One check from start to end: what the app expects, what AWS shows, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from kombu_hake.admin.blueprint import blueprint
from kombu_hake.admin.check.facts import Expected, Facts
from kombu_hake.admin.check.findings import Finding, found, in_order
from kombu_hake.admin.check.place import of_place, of_reads
from kombu_hake.admin.check.probe import Probe, Probed, of_probes
from kombu_hake.admin.check.queues import of_queues
from kombu_hake.admin.check.reading import Reader
from kombu_hake.admin.check.rights import Right, RightsReader, of_rights, usual_roles
from kombu_hake.admin.check.subscriptions import of_topics
from kombu_hake.admin.declared import declared
from kombu_hake.amqp import SQS_ATTRIBUTES_SETTLE_S
from kombu_hake.aws import Clients, unreachable_at
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.groups import registry
from kombu_hake.topology import Topology

__all__ = ["CheckReport", "check"]

_PROBE_S = 2.0 * SQS_ATTRIBUTES_SETTLE_S
_LOCAL_PROBE_S = 5.0


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        findings: Errors first.
        rights: What the credentials may do, for each role that was asked about.
        probes: What became of each kind of subscription, if it was probed.
        queues: Number of SQS queues that were looked at; likewise *topics* and *subscriptions*.
    """

    findings: tuple[Finding, ...] = ()
    rights: tuple[Right, ...] = ()
    probes: tuple[Probed, ...] = ()
    queues: int = 0
    topics: int = 0
    subscriptions: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether there is neither an error nor a warning."""
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
    drift: Callable[[], Iterator[tuple[str, str, str]]] = lambda: iter(()),
) -> CheckReport:
    """Compare what an app declares with what AWS shows.

    Args:
        roles: Whose rights to look at; default: those of the app's own processes.
        probe: Also prove that SNS delivers, with a topic and queues of its own.
        wait_s: How long to wait for a probe; default: twice what a queue policy takes.
        on_progress: Called with what the probe does.
        drift: Differences to what ``apply`` would make: ARN, attribute, and a sentence.
    Raises:
        ConfigurationError: the account is unknown.
        TopologyError: the app declares what AMQP does not know.
        BrokerUnavailable: AWS stopped answering.
    """
    settings = clients.settings
    try:
        clients.check()
    except BrokerUnavailable as exc:
        return CheckReport(tuple(_unreachable(clients, exc)))
    declarations = declared(app)
    expected = Expected(
        declarations,
        blueprint(declarations, settings, topology.home),
        settings,
        frozenset((one.group, one.topic, one.key) for one in registry.all(app)),
        app.main or "APP",
    )
    facts = Reader(clients, topology.home).read(expected)
    rights = RightsReader(clients).read(expected, facts, roles or usual_roles(expected))
    findings = [*judged(expected, facts), *of_rights(expected, facts, rights)]
    findings += _unexplained(drift(), findings)
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
    return [
        *of_place(expected, facts), *of_reads(facts), *of_queues(expected, facts), *of_topics(expected, facts)
    ]  # fmt: skip


def _unreachable(clients: Clients, exc: BrokerUnavailable) -> Iterator[Finding]:
    """At which step the endpoints cannot be reached."""
    endpoints = clients.endpoints()
    for service, url in endpoints.items():
        step = unreachable_at(url, clients.settings.connect_timeout)
        if step is not None:
            yield found("endpoint-unreachable", url, f"{service} cannot be reached. {step}")
            return
    yield found("endpoint-unreachable", endpoints["sqs"], f"A connection is possible, but requests fail: {exc}")


def _unexplained(differences: Iterator[tuple[str, str, str]], findings: list[Finding]) -> Iterator[Finding]:
    """A difference that a finding explains is not drift."""
    explained = {(finding.where, name) for finding in findings for name in finding.explains}
    for where, name, sentence in differences:
        if (where, name) not in explained and (where, "*") not in explained:
            yield found("drift", where, sentence)
