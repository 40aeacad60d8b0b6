"""Exports of an app: puts together what it declares, where that is in AWS, and what exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from kombu_hake.admin.declared import Declared, declared, stores
from kombu_hake.admin.export.alarms import alarms
from kombu_hake.admin.export.cloudformation import cloudformation
from kombu_hake.admin.export.existing import Existing, completed, read, with_recorded
from kombu_hake.admin.export.rights import Resources, Role, bucket_arn, key_statement, payloads_arn, policies
from kombu_hake.admin.export.terraform import terraform
from kombu_hake.admin.once import OnceClients
from kombu_hake.amqp import is_reply_exchange, parse_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.topology import SIZE_ARGUMENT, Blueprint, Home

__all__ = ["Exporter"]

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class Exporter:
    """Exports the topology of one app. Only :meth:`terraform` reads AWS, and that only with *imports*."""

    def __init__(self, app: Any, clients: Clients, home: Home) -> None:
        self._app = app
        self._clients = clients
        self._settings = clients.settings
        self._home = home

    def terraform(self, *, imports: bool) -> dict[str, Any]:
        """See :meth:`kombu_hake.admin.connection.Admin.export_terraform`."""
        found = declared(self._app)
        planned = self._blueprint(found)
        if not imports:
            return terraform(planned, Existing(), stores(found, self._settings))
        once = cast(Clients, OnceClients(self._clients))
        planned = self._blueprint(with_recorded(found, planned, read(once, planned)))
        existing = read(once, planned)
        return terraform(completed(planned, existing), existing, stores(found, self._settings))

    def cloudformation(self) -> dict[str, Any]:
        """See :meth:`kombu_hake.admin.connection.Admin.export_cloudformation`."""
        return cloudformation(self._blueprint(declared(self._app)))

    def alarms(self) -> dict[str, Any]:
        """See :meth:`kombu_hake.admin.connection.Admin.export_alarms`."""
        return alarms(self._blueprint(declared(self._app)))

    def policies(self, role: Role) -> list[dict[str, Any]]:
        """See :meth:`kombu_hake.admin.connection.Admin.export_iam`."""
        return policies(role, self.resources())

    def resources(self) -> Resources:
        """What the policies of this app are about."""
        found = declared(self._app)
        planned = self._blueprint(found)
        raised = {exchange.name for exchange in found.exchanges if exchange.arguments.get(SIZE_ARGUMENT)}
        has_control = self._settings.topology == "auto" and bool(self._app.conf.worker_enable_remote_control)
        has_results = self._settings.topology == "auto" and str(self._app.conf.result_backend).startswith("rpc")
        kept, partition = stores(found, self._settings), self._clients.partition()
        return Resources(
            queues=(
                *(queue.arn for queue in planned.queues if queue.role in ("queue", "level")),
                *self._other_queues(found),
            ),
            dead_queues=tuple(queue.arn for queue in planned.queues if queue.role in ("dead", "undelivered")),
            topics=tuple(topic.arn for topic in planned.topics),
            raised_topics=tuple(topic.arn for topic in planned.topics if topic.exchange in raised),
            temporary_queues=tuple(self._temporary_queues(found)) if has_control else (),
            control_topics=tuple(self._control_topics(found)) if has_control else (),
            namespace=(self._arn("sqs", f"{self._settings.namer.queue_prefix()}*"),) if has_control else (),
            result_queues=(self._arn("sqs", self._settings.namer.uuid_pattern("{uuid}")),) if has_results else (),
            payloads=tuple(payloads_arn(store, partition) for store in kept),
            buckets=tuple(dict.fromkeys(bucket_arn(store, partition) for store in kept)),
            keys=tuple(self._keys(planned)),
        )

    def _blueprint(self, found: Declared) -> Blueprint:
        return found.blueprint(self._settings, self._home)

    def _other_queues(self, found: Declared) -> Iterator[str]:
        """Queues that the app uses under one name and does not create (``no_declare``), or that go away."""
        for name in found.other_queues:
            address = self._settings.predefined_queue(name)
            given = self._home.address_arn(address) if address is not None else None
            if given is not None:
                yield given
            elif not _UUID.search(name):
                yield self._arn("sqs", self._settings.namer.queue(name))

    def _temporary_queues(self, found: Declared) -> Iterator[str]:
        namer = self._settings.namer
        yield self._arn("sqs", namer.incarnation_pattern())
        templates = [f"{{uuid}}.{exchange}" for exchange in found.temporary if is_reply_exchange(exchange)]
        templates.append(f"{self._app.conf.event_queue_prefix}.{{uuid}}")
        # A broadcast's queue has another UUID in each process.
        templates += [_UUID.sub("{uuid}", name, count=1) for name in found.other_queues]
        for template in templates:
            name = namer.uuid_pattern(template) if "{uuid}" in template else namer.queue(template)
            yield self._arn("sqs", name)

    def _control_topics(self, found: Declared) -> Iterator[str]:
        for exchange in found.temporary:
            if not is_reply_exchange(exchange):  # replies go straight to a queue
                given = self._settings.predefined_exchanges.get(exchange)
                yield given or self._arn("sns", self._settings.namer.topic(exchange))

    def _keys(self, planned: Blueprint) -> Iterator[dict[str, Any]]:
        named = {queue.attributes.get("KmsMasterKeyId", ""): queue.arn for queue in planned.queues}
        for key, arn in sorted(named.items()):
            statement = key_statement(key, parse_arn(arn)) if key else None
            if statement is not None:
                yield statement

    def _arn(self, service: str, name: str) -> str:
        found = self._home.queue_arn(name) if service == "sqs" else self._home.topic_arn(name)
        if found is None:
            raise ConfigurationError("The account is unknown, and STS cannot be reached. Set the option account_id.")
        return found
