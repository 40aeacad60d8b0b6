"""A proxy that writes down which message was received and settled when, so that each duplicate has a reason."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from support import aws_wire as wire
from support.proxy import Proxy
from support.proxy_faults import DUPLICATE_HANDLE, Plan
from support.proxy_http import ClientSide, Message

_SETTLING = {"DeleteMessageBatch": "ack", "ChangeMessageVisibilityBatch": "visibility"}
_PUBLISHING = ("Publish", "PublishBatch", "SendMessage", "SendMessageBatch")
_KEY = re.compile(r'"s3Key": "([^"]+)"')
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
#: How a request ended: it took effect and was answered; it took effect, or may have, without an answer; it did not.
DONE, UNANSWERED, REFUSED = "done", "unanswered", "refused"


@dataclass
class Receipt:
    """One delivery of a message to a worker, and what became of it.

    Attributes:
        message: SQS's id of the message.
        receives: SQS's count of its deliveries.
        at: Time of the answer.
        is_copy: The proxy's own duplicate of a delivery.
        settles: ``(kind, outcome, time)`` of what was asked with its handle: ack, release or renew.
    """

    message: str
    receives: int
    at: float
    is_copy: bool
    settles: list[tuple[str, str, float]]


class JournalProxy(Proxy):
    """As :class:`support.proxy.Proxy`; entries are made while there are rules."""

    def __init__(self, upstream: str, **more: Any) -> None:
        super().__init__(upstream, **more)
        self.receipts: dict[str, Receipt] = {}
        self.spoiled = 0
        #: Ids of tasks whose publisher did not wait for the answer: a busy machine takes longer than its patience.
        self.unheard: set[str] = set()
        #: Key of an object in S3 to the SQS ids of the messages that point to it.
        self._pointing: dict[str, set[str]] = {}
        self.deleted = 0
        #: Keys of objects that were deleted while no message that pointed to them had been acknowledged.
        self.deleted_early: list[str] = []

    def of(self, message: str) -> list[Receipt]:
        """The deliveries of a message, in order."""
        return sorted((r for r in list(self.receipts.values()) if r.message == message), key=lambda r: r.at)

    async def _serve_faulty(self, client: ClientSide, plan: Plan) -> Message | None:
        request, answer, failed = plan.original or plan.request, None, True
        is_spoiled = bool(plan.acted)
        if request.action == "DeleteObject":
            self._deleting(request.target)
        try:
            answer = await super()._serve_faulty(client, plan)
            failed = False
        finally:
            self.spoiled += is_spoiled or bool(plan.acted)  # some faults act on the answer
            if request.action in _SETTLING:
                self._settled(request, plan, _outcome(plan, answer, failed))
            elif request.action in _PUBLISHING and _outcome(plan, answer, failed) == UNANSWERED:
                self.unheard.update(_ID.findall(request.body.decode(errors="replace")))
        if answer is not None and request.action == "ReceiveMessage":
            self._received(answer)
        return answer

    def swallowed(self, request: wire.Request) -> None:
        self.spoiled += 1
        if request.action in _SETTLING:
            self._settled(request, Plan(request), REFUSED)

    def _deleting(self, path: str) -> None:
        key = path.removeprefix("/").partition("/")[2]
        messages = self._pointing.get(key, set())
        acks = {
            outcome
            for receipt in list(self.receipts.values())
            if receipt.message in messages
            for kind, outcome, _ in receipt.settles
            if kind == "ack"
        }
        self.deleted += 1
        if not acks & {DONE, UNANSWERED}:
            self.deleted_early.append(key)

    def _received(self, answer: Message) -> None:
        for message in wire.messages_of(answer):
            handle = message["ReceiptHandle"]
            receives = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
            is_copy = handle.startswith(DUPLICATE_HANDLE)
            for key in _KEY.findall(message["Body"]):
                self._pointing.setdefault(key, set()).add(message["MessageId"])
            self.receipts[handle] = Receipt(message["MessageId"], receives, time.time(), is_copy, [])

    def _settled(self, request: wire.Request, plan: Plan, outcome: str) -> None:
        for entry in json.loads(request.body)["Entries"]:
            receipt = self.receipts.get(entry["ReceiptHandle"])
            if receipt is None:
                continue
            kind = _SETTLING[request.action]
            if kind == "visibility":
                kind = "renew" if int(entry["VisibilityTimeout"]) else "release"
            own = REFUSED if entry["Id"] in plan.failed_ids else outcome
            receipt.settles.append((kind, own, time.time()))


def _outcome(plan: Plan, answer: Message | None, failed: bool) -> str:
    if plan.close in ("reset", "never"):
        return REFUSED
    if answer is None or failed:  # the client, or its connection, has gone meanwhile
        return UNANSWERED
    return DONE if answer.status == 200 else REFUSED
