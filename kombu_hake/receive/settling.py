"""One request of the settle path: leases of one queue that are deleted, renewed or made visible together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kombu_hake.amqp import QueueUrl
from kombu_hake.aws import Clients, entry_error
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.receive.lease import Lease

__all__ = ["Answer", "Kind", "Request"]

Kind = Literal["ack", "renew", "release"]


class Answer(NamedTuple):
    """What AWS did with each lease of a request."""

    done: list[Lease]
    #: Those it could not take for now, each with the reason.
    later: list[tuple[Lease, BrokerUnavailable]]
    #: Those it will not take.
    refused: list[tuple[Lease, HakeError]]


class Request:
    """What is to be asked, up to ten leases of one queue."""

    __slots__ = ("kind", "leases", "url")

    def __init__(self, kind: Kind, url: QueueUrl, leases: Sequence[Lease]) -> None:
        self.kind = kind
        self.url = url
        #: Those that are still to be asked for.
        self.leases = list(leases)

    def send(self, clients: Clients, visibility_s: int) -> Answer:
        """Ask AWS, once.

        Raises:
            HakeError: the whole request failed.
        """
        entries = [{"Id": str(i), "ReceiptHandle": lease.receipt_handle} for i, lease in enumerate(self.leases)]
        if self.kind == "ack":
            answer = clients.sqs("delete_message_batch", QueueUrl=self.url, Entries=entries)
        else:
            timed = [
                {**entry, "VisibilityTimeout": visibility_s if self.kind == "renew" else lease.hide_s}
                for entry, lease in zip(entries, self.leases, strict=True)
            ]
            answer = clients.sqs("change_message_visibility_batch", QueueUrl=self.url, Entries=timed)
        failed = {int(item["Id"]): entry_error(item, "sqs", self.url) for item in answer.get("Failed") or ()}
        found = Answer([lease for i, lease in enumerate(self.leases) if i not in failed], [], [])
        for number, error in failed.items():
            if isinstance(error, BrokerUnavailable):
                found.later.append((self.leases[number], error))
            else:
                found.refused.append((self.leases[number], error))
        return found
