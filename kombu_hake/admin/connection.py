"""Connects to an app's broker for operating it: :func:`connect`, :class:`Admin`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from kombu_hake.admin import dead_letters
from kombu_hake.admin import namespace as namespace_module
from kombu_hake.admin.check import CheckReport, check
from kombu_hake.admin.dead_letters import DeadLetter, Outcome, Selection
from kombu_hake.admin.export.exporter import Exporter
from kombu_hake.admin.export.rights import Role
from kombu_hake.admin.plan import Applied, Operator, Plan, Undeclared
from kombu_hake.admin.queues import Group, QueueInfo, QueueReader
from kombu_hake.aws import Clients
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.groups import registry
from kombu_hake.temporary import Found, Janitor, Report
from kombu_hake.topology import Topology

__all__ = ["Admin", "connect", "group_names"]


def group_names(app: Any) -> list[str]:
    """Names of the groups that a Celery app has handlers for. Imports the app's task modules; calls nothing in AWS."""
    return registry.groups(_loaded(app))


@contextmanager
def connect(app: Any, *, offline: bool = False) -> Iterator[Admin]:
    """Connect to the broker of a Celery app, with the app's own URL, options and credentials.

    Use it as a context manager. Imports the app's task modules, so that its handlers are known.

    Args:
        offline: Make no request until a method needs one. Exports need none, if the options ``region`` and
            ``account_id`` are set; :meth:`Admin.check` finds out why AWS does not answer.
    Raises:
        ConfigurationError: The app's broker is not ``hake://``.
        BrokerUnavailable: AWS does not answer.
    """
    app = _loaded(app)
    with app.connection_for_write() as connection:
        if connection.transport_cls != "hake" and connection.transport.driver_type != "hake":
            raise ConfigurationError(
                f"This app's broker is {connection.as_uri()}; kombu_hake.admin needs hake://. Set the app's "
                "broker_url, or name the app: celery -A shop hake …"
            )
        transport = connection.transport
        if offline:
            transport.prepare()
        else:
            connection.connect()
        admin = Admin(app, transport.topology, transport.clients)
        try:
            yield admin
        finally:
            admin._close()


def _loaded(app: Any) -> Any:
    """The app itself, if *app* is a proxy (``celery.current_app``), with its tasks imported."""
    app = getattr(app, "_get_current_object", lambda: app)()
    app.loader.import_default_modules()
    app.finalize()
    return app


class Admin:
    """An app's queues, groups and dead letters; returned by :func:`connect`. Not safe for concurrent use by threads.

    Each method raises :class:`~kombu_hake.exceptions.AccessDenied` if a right is missing, and
    :class:`~kombu_hake.exceptions.BrokerUnavailable` if AWS does not answer.
    """

    def __init__(self, app: Any, topology: Topology, clients: Clients) -> None:
        self.app = app
        self._topology = topology
        self._clients = clients
        self._queues = QueueReader(app, topology, clients)
        self._scans: WeakSet[Generator[Any, None, None]] = WeakSet()

    def queues(self, names: Iterable[str] = (), *, with_ages: bool = True) -> list[QueueInfo]:
        """Read the counts of queues. Needs read-only rights.

        Args:
            names: Names of queues, even if the app does not declare them. Default: every queue that the app consumes or
                routes tasks to, groups included, except temporary ones.
            with_ages: Ask CloudWatch for the age of the oldest message of each queue, which AWS charges for.
        Returns:
            One :class:`QueueInfo` for each, the default ones sorted by name. A missing right leaves fields unknown, and
            is not an error.
        """
        return self._queues.queues(names, with_ages=with_ages)

    def groups(self, names: Iterable[str] = (), *, with_ages: bool = True) -> list[Group]:
        """Read groups with their counts, bindings and handlers. Needs read-only rights.

        Args:
            names: Names of queues, even if they are not groups. Default: the app's groups, and other queues that
                are subscribed to the same topics.
            with_ages: Ask CloudWatch for the age of the oldest message of each queue, which AWS charges for.
        Returns:
            One :class:`Group` for each. A missing right leaves fields unknown, and is not an error.
        """
        return self._queues.groups(names, with_ages=with_ages)

    def dead_letters(
        self, queue: str, selection: Selection | None = None, *, limit: int | None = None
    ) -> Iterator[DeadLetter]:
        """Iterate over the dead letters of a group, or of any queue that has a dead-letter queue.

        SQS shows a message only to its receiver, so each is hidden from other consumers until the iteration ends,
        the connection is closed, or five minutes have passed.

        Args:
            selection: Which dead letters; default: all.
            limit: Maximum number.
        Raises:
            QueueNotFound: The queue has no dead-letter queue.
        """
        scan = dead_letters.scan(self._queues, queue, selection or Selection(), limit)
        self._scans.add(scan)
        return (letter for letters in scan for letter in letters)

    def requeue(
        self,
        queue: str,
        selection: Selection | None = None,
        *,
        limit: int | None = None,
        rate: float | None = None,
        on_progress: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Send dead letters back to their original queue, to run there under the same task ids.

        Each starts as a first try: retries, ETA and expiry are reset. A dead letter is deleted after AWS has accepted
        it in the queue; a crash in between leaves both copies.

        Args:
            selection: Which dead letters; default: all.
            limit: Maximum number.
            rate: Maximum number per second.
            on_progress: Called after each batch of up to ten with the outcome so far.
        Raises:
            QueueNotFound: The queue is gone, or has no dead-letter queue.
        """
        return dead_letters.requeue(
            self._queues, queue, selection or Selection(), limit=limit, rate=rate, on_progress=on_progress
        )

    def purge_dead_letters(
        self,
        queue: str,
        selection: Selection,
        *,
        limit: int | None = None,
        on_progress: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Delete dead letters, each with its payload in S3 unless other messages may share it.

        Args:
            selection: Which dead letters; ``Selection()`` for all.
            limit: Maximum number.
            on_progress: Called after each batch of up to ten with the outcome so far.
        Raises:
            QueueNotFound: The queue has no dead-letter queue.
        """
        return dead_letters.purge(self._queues, queue, selection, limit=limit, on_progress=on_progress)

    def purge_queue(self, queue: str) -> int:
        """Delete all messages of a queue, its priority levels included, except those that workers have received.

        Returns:
            The approximate number of deleted messages.
        Raises:
            QueueNotFound: There is no such queue.
        """
        return self._topology.queues.purge(queue)

    def remove_abandoned(
        self,
        report: Report,
        *,
        dry_run: bool = False,
        approve: Callable[[list[Found]], bool] = lambda unproven: False,
    ) -> Iterator[float]:
        """Remove temporary queues abandoned by crashed processes, as ``celery hake janitor`` does.

        Takes one step, of about one request, for each item of the iterator. Some steps are minutes apart: a queue is
        checked again before it is removed.

        Args:
            report: Gets the results.
            dry_run: Remove nothing.
            approve: Called once with the queues that are temporary only by their tags; return True to remove them too.
        Returns:
            An iterator; each item is the number of seconds to wait before the next step.
        """
        settings = self._clients.settings
        conf = self.app.conf
        exchanges = [f"{conf.control_exchange}.pidbox", conf.event_exchange]
        janitor = Janitor(self._clients, settings, self._topology.topics, self._topology.home)
        return janitor.sweep(report, dry_run=dry_run, exchanges=exchanges, approve=approve)

    def delete_namespace(self, namespace: str) -> list[str]:
        """Delete all queues and topics of this app's namespace, with all messages and subscriptions.

        For test runs and environments that are no longer needed. Predefined queues and topics stay.

        Args:
            namespace: The namespace of the app's broker URL, repeated as a confirmation.
        Returns:
            The AWS names of the deleted queues and topics.
        Raises:
            ConfigurationError: The app's namespace is another one or none, or ``topology`` is not ``auto``.
        """
        return namespace_module.delete_namespace(self._clients, namespace)

    def check(
        self,
        *,
        roles: Collection[str] = (),
        probe: bool = False,
        wait_s: float | None = None,
        on_progress: Callable[[str], None] = lambda text: None,
        app_name: str | None = None,
    ) -> CheckReport:
        """Find out why messages do not arrive, or soon may not, as ``celery hake check`` does.

        Changes nothing. A probe creates a separate topic and queues, and removes them.

        Args:
            roles: Roles whose rights to check: ``producer``, ``consumer``, ``declarer``, ``operator``. Default: those
                of the app's own processes.
            probe: Also prove that SNS delivers to queues with the policies and filters of the app's queues.
            wait_s: How long to wait for the probe; default: two minutes.
            on_progress: Called with a line for each step of the probe.
            app_name: Argument of ``celery -A`` in the commands that findings suggest; default: the app's ``main``.
        Returns:
            The findings. A denied read is a finding, not an error.
        Raises:
            ConfigurationError: The account is unknown: set the option ``account_id``.
        """
        return check(
            self.app, self._topology, self._clients, roles=roles, probe=probe, wait_s=wait_s, on_progress=on_progress,
            app_name=app_name or self.app.main or "APP",
        )  # fmt: skip

    def export_terraform(self, *, imports: bool = True) -> dict[str, Any]:
        """The declared queues, topics and subscriptions as Terraform JSON, for ``json.dump`` to a ``.tf.json`` file.

        Args:
            imports: Add ``import`` blocks for existing resources, with their attributes, tags and policies in AWS.
                Needs read-only rights.
        Raises:
            ConfigurationError: The account is unknown: set ``account_id``.
        """
        return self._exporter().terraform(imports=imports)

    def export_cloudformation(self) -> dict[str, Any]:
        """The declared queues, topics and subscriptions as a CloudFormation template.

        Raises:
            ConfigurationError: The account is unknown, or the template exceeds CloudFormation's limits.
        """
        return self._exporter().cloudformation()

    def export_iam(self, role: Role) -> list[dict[str, Any]]:
        """The IAM policies that a role needs for this app.

        Args:
            role: ``producer``, ``consumer``, ``declarer`` or ``operator``.
        Returns:
            One policy document, or several to be attached together if one would exceed the 6,144 characters of a
            managed policy.
        Raises:
            ConfigurationError: The account is unknown.
        """
        return self._exporter().policies(role)

    def export_alarms(self) -> dict[str, Any]:
        """CloudWatch alarms for the declared queues and topics, as a CloudFormation template.

        Raises:
            ConfigurationError: The account is unknown, or the template exceeds CloudFormation's limits.
        """
        return self._exporter().alarms()

    def _exporter(self) -> Exporter:
        return Exporter(self.app, self._clients, self._topology.home)

    def plan(self) -> Plan:
        """Compare what the app declares with AWS. Reads only; works with ``topology=verify`` and ``assume``, too.

        Returns:
            What :meth:`apply` would change, and what is no longer declared. What the role may not read is listed as
            unknown.
        Raises:
            ConfigurationError: The account is unknown; set the option ``account_id``.
        """
        return Operator(self.app, self._topology, self._clients).plan()

    def apply(
        self,
        *,
        prune: Callable[[list[Undeclared]], Iterable[Undeclared]] = lambda found: (),
        on_progress: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Applied:
        """Apply the changes that :meth:`plan` lists. Idempotent, and safe while workers run.

        Also works with ``topology=verify`` and ``assume``, which prevent only workers from creating queues. Resets
        attributes, redrive policies and tags that are declared and were changed elsewhere; keeps what is not declared.
        Waits until AWS shows the changes, up to three minutes.

        Args:
            prune: Called once, after all other changes, with what is no longer declared; returns what to delete.
            on_progress: Called with a line for each change.
            sleep: Called with seconds to wait.
        Returns:
            The changes, and the failures.
        """
        operator = Operator(self.app, self._topology, self._clients)
        return operator.apply(prune=prune, on_progress=on_progress, sleep=sleep)

    def _close(self) -> None:
        """Make messages visible again that unfinished iterations hide."""
        for scan in list(self._scans):
            scan.close()
