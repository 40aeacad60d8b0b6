"""What the fired rules make of one request: a plan that the proxy carries out, and the memory it takes.

``Faults.plan`` runs before the request is forwarded and ``Faults.finish`` on its response. Neither does any I/O or
waits; both are called from the proxy's event loop only.

Duplicates carry receipt handles of the proxy's own: settling one is answered here and never forwarded, so that the
first delivery's fate decides, as on AWS where two deliveries of one message are settled on their own.

A delayed Subscribe is forwarded at once with a filter that matches nothing, so that the caller gets the real ARN and
events published meanwhile are lost without an error, as on AWS; the wanted filter is set later.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

from . import aws_wire as wire
from .aws_wire import Request
from .odd_answers import ODD
from .proxy_http import Message, response, with_body
from .proxy_rules import KINDS, Rule, RuleBook, TokenBucket

#: How far the time of a signature may be from AWS's.
SIGNATURE_S = 900.0
DUPLICATE_HANDLE = "proxy-duplicate-"
MATCHES_NOTHING = '{"proxy-not-yet":["x"]}'
_SETTLING = frozenset(
    {"DeleteMessage", "ChangeMessageVisibility", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"}
)


@dataclass
class Plan:
    """What to do with one request, in this order.

    Attributes:
        request: What to forward.
        delay_s: Wait so long first.
        original: What came from the client.
        close: ``""``, ``reset`` (before forwarding), ``lost`` (after forwarding), ``cut`` (in the middle of the answer)
            or ``never`` (do not answer at all).
        refuse_s: Stop listening for so long.
        answer: Say this instead of forwarding.
        acted: Kinds of the faults that did something to the request.
        later: Requests to make after the response, each with the seconds to wait before it is asked for.
    """

    request: Request
    delay_s: float = 0.0
    close: str = ""
    refuse_s: float = 0.0
    answer: Message | None = None
    acted: list[str] = field(default_factory=list)
    later: list[tuple[float, Callable[[], Request]]] = field(default_factory=list)
    original: Request | None = None
    is_reordered: bool = False
    is_duplicated: bool = False
    failed_ids: list[str] = field(default_factory=list)
    settled_ids: list[str] = field(default_factory=list)
    held_messages: list[dict[str, Any]] = field(default_factory=list)
    pending_filter: tuple[float, str] | None = None
    skew_s: float | None = None


class Faults:
    """Turns requests and the rules they fire into plans; remembers deletions, duplicates and delayed writes.

    Args:
        rules: The rules in force; its random generator is used for every choice.
        clock: Monotonic seconds.
    """

    def __init__(self, rules: RuleBook, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._buckets: dict[Rule, TokenBucket] = {}
        self._deleted_at: dict[str, float] = {}
        self._held: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._duplicates_made = 0
        self._pending_attributes: dict[str, list[dict[str, str]]] = {}
        self._pending_filters: dict[str, str] = {}
        self._subscribed: dict[tuple[str, str], str] = {}

    @property
    def is_idle(self) -> bool:
        """True while no rule is in force and nothing is remembered that a request could meet."""
        remembered = (self._held, self._duplicates_made, self._pending_attributes, self._pending_filters)
        return not (self._rules.rules or any(remembered))

    def plan(self, request: Request, fired: list[Rule]) -> Plan:
        """Decide what happens to a request."""
        plan = Plan(request, original=request)
        for rule in fired:
            if _HANDLERS[rule.kind](self, plan, rule):
                plan.acted.append(rule.kind)
        if plan.answer is None and request.service == "sqs":
            self._hand_out_held(plan)
            self._settle_duplicates(plan)
        if plan.answer is None:
            self._write_while_pending(plan)
        if plan.answer is None and not plan.close and request.action == "DeleteQueue":
            self._deleted_at[request.target] = self._clock()
        return plan

    def finish(self, plan: Plan, answer: Message) -> Message:
        """The response to give, made from the emulator's (or from ``plan.answer``)."""
        request = plan.request
        if plan.skew_s is not None:
            answer = wire.with_date(answer, time.time() + plan.skew_s)
        if "odd" in plan.acted:
            return answer
        if plan.failed_ids or plan.settled_ids:
            answer = wire.add_results(request.service, answer, failed=plan.failed_ids, succeeded=plan.settled_ids)
        if request.action == "ReceiveMessage":
            return self._finish_receive(plan, answer)
        if request.action == "Subscribe" and answer.status == 200:
            self._finish_subscribe(plan, answer)
        return self._overlay(request, answer)

    # ---- one handler per kind; each says whether it did something

    def _answer(self, plan: Plan, answer: Message) -> bool:
        """Answer instead of the emulator; the first rule that does decides."""
        if plan.answer is not None:
            return False
        plan.answer = answer
        return True

    def _status(self, plan: Plan, rule: Rule) -> bool:
        return self._answer(plan, wire.server_error(plan.request, rule.status))

    def _throttle(self, plan: Plan, rule: Rule) -> bool:
        return self._answer(plan, wire.throttled(plan.request, in_older_words=rule.status == 403))

    def _odd(self, plan: Plan, rule: Rule) -> bool:
        return self._answer(plan, ODD[rule.odd])

    def _expired(self, plan: Plan, rule: Rule) -> bool:
        return self._answer(plan, wire.expired(plan.request))

    def _skewed(self, plan: Plan, rule: Rule) -> bool:
        plan.skew_s, signed_at = rule.seconds, wire.signed_at(plan.request)
        if signed_at is None or abs(signed_at - time.time() - rule.seconds) <= SIGNATURE_S:
            return False
        return self._answer(plan, wire.signature_expired(plan.request))

    def _old_keys(self, plan: Plan, rule: Rule) -> bool:
        age_s = wire.key_age_s(plan.request, time.time())
        return age_s is not None and age_s > rule.seconds and self._answer(plan, wire.expired(plan.request))

    def _no_keys(self, plan: Plan, rule: Rule) -> bool:
        return False  # what gives out keys asks for the rule

    def _access_denied(self, plan: Plan, rule: Rule) -> bool:
        return self._answer(plan, wire.access_denied(plan.request))

    def _reset(self, plan: Plan, rule: Rule) -> bool:
        plan.close = "reset"
        return True

    def _lost_response(self, plan: Plan, rule: Rule) -> bool:
        plan.close = plan.close or "lost"
        return plan.close == "lost"

    def _cut(self, plan: Plan, rule: Rule) -> bool:
        plan.close = plan.close or "cut"
        return plan.close == "cut"

    def _black_hole(self, plan: Plan, rule: Rule) -> bool:
        plan.close = "never"
        return True

    def _refuse(self, plan: Plan, rule: Rule) -> bool:
        plan.close, plan.refuse_s = "reset", rule.seconds
        return True

    def _delay(self, plan: Plan, rule: Rule) -> bool:
        plan.delay_s += rule.seconds
        return True

    def _duplicate(self, plan: Plan, rule: Rule) -> bool:
        plan.is_duplicated = True
        return False  # only if it receives something, see _finish_receive

    def _reorder(self, plan: Plan, rule: Rule) -> bool:
        plan.is_reordered = True
        return False  # likewise

    def _partial_failure(self, plan: Plan, rule: Rule) -> bool:
        """Take out each entry with chance ``rule.share``, at least one."""
        if plan.answer is not None:
            return False
        unlucky = self._rules.random.randrange(max(wire.sent_count(plan.request), 1))
        number = itertools.count()
        is_taken = lambda entry: next(number) == unlucky or self._rules.random.random() < rule.share  # noqa: E731
        plan.request, taken, is_any_left = wire.take_entries(plan.request, is_taken)
        plan.failed_ids += taken
        if not is_any_left:
            self._answer(plan, wire.empty_batch_response(plan.request))
        return True

    def _recreate_ban(self, plan: Plan, rule: Rule) -> bool:
        deleted_at = self._deleted_at.get(plan.request.target)
        if deleted_at is None or self._clock() - deleted_at >= rule.seconds:
            return False
        return self._answer(plan, wire.deleted_recently())

    def _rate_limit(self, plan: Plan, rule: Rule) -> bool:
        if plan.request.action in wire.DATA_ACTIONS:
            return False
        bucket = self._buckets.setdefault(rule, TokenBucket(rule.rate, self._clock()))
        return not bucket.take(self._clock()) and self._answer(plan, wire.throttled(plan.request))

    def _delayed_effect(self, plan: Plan, rule: Rule) -> bool:
        if plan.answer is not None or plan.close:
            return False
        if plan.request.action == "SetQueueAttributes":
            self._delay_attributes(plan, rule.seconds)
            return True
        if _subscription_key(plan.request) in self._subscribed:
            return False
        plan.request, wanted = with_filter(plan.request, MATCHES_NOTHING)
        plan.pending_filter = (rule.seconds, wanted)
        return True

    # ---- receives and settling

    def _hand_out_held(self, plan: Plan) -> None:
        held = self._held.get(plan.request.target) if plan.request.action == "ReceiveMessage" else None
        if not held:
            return
        room = int(json.loads(plan.request.body).get("MaxNumberOfMessages", 1))
        plan.held_messages, self._held[plan.request.target] = held[:room], held[room:]
        if not self._held[plan.request.target]:
            del self._held[plan.request.target]
        less = wire.receive_less(plan.request, len(plan.held_messages))
        if less is None:
            self._answer(plan, response(200, wire.JSON_TYPE, b"{}"))
        else:
            plan.request = less

    def _settle_duplicates(self, plan: Plan) -> None:
        """Answer for the entries that settle a duplicate; forward the rest."""
        if not self._duplicates_made or plan.request.action not in _SETTLING:
            return
        if not plan.request.action.endswith("Batch"):
            if json.loads(plan.request.body)["ReceiptHandle"].startswith(DUPLICATE_HANDLE):
                self._answer(plan, response(200, wire.JSON_TYPE, b"{}"))
            return
        is_ours = lambda entry: entry["ReceiptHandle"].startswith(DUPLICATE_HANDLE)  # noqa: E731
        plan.request, plan.settled_ids, is_any_left = wire.take_entries(plan.request, is_ours)
        if not is_any_left:
            self._answer(plan, wire.empty_batch_response(plan.request))

    def _finish_receive(self, plan: Plan, answer: Message) -> Message:
        if not (plan.is_duplicated or plan.is_reordered or plan.held_messages):
            return answer
        messages = wire.messages_of(answer)
        later = self._held[plan.request.target]
        if plan.is_duplicated and messages:
            plan.acted.append("duplicate")
            later += [self._duplicate_of(message) for message in messages]
        if plan.is_reordered and len(messages) > 1:
            plan.acted.append("reorder")
            self._rules.random.shuffle(messages)
            later.append(messages.pop())
        if not later:
            del self._held[plan.request.target]
        return wire.with_messages(answer, plan.held_messages + messages)

    def _duplicate_of(self, message: dict[str, Any]) -> dict[str, Any]:
        self._duplicates_made += 1
        return message | {"ReceiptHandle": f"{DUPLICATE_HANDLE}{self._duplicates_made}"}

    # ---- delayed effects

    def _delay_attributes(self, plan: Plan, seconds: float) -> None:
        request, queue = plan.request, plan.request.target
        self._pending_attributes.setdefault(queue, []).append(json.loads(request.body)["Attributes"])

        def act() -> Request:
            self._pending_attributes[queue].pop(0)
            if not self._pending_attributes[queue]:
                del self._pending_attributes[queue]
            return request

        plan.later.append((seconds, act))
        self._answer(plan, response(200, wire.JSON_TYPE, b"{}"))

    def _finish_subscribe(self, plan: Plan, answer: Message) -> None:
        found = re.search(rb"<SubscriptionArn>([^<]+)</SubscriptionArn>", answer.body)
        arn = found[1].decode() if found else ""
        self._subscribed[_subscription_key(plan.request)] = arn
        if plan.pending_filter:
            is_first = arn not in self._pending_filters  # of two that subscribe the queue at once
            seconds, self._pending_filters[arn] = plan.pending_filter
            if is_first:
                plan.later.append((seconds, lambda: filter_write(plan.request, arn, self._pending_filters.pop(arn))))

    def _write_while_pending(self, plan: Plan) -> None:
        """A subscription whose filter is pending: a new filter replaces the pending one, Subscribe compares nothing."""
        if not self._pending_filters or plan.request.service != "sns":
            return
        fields = dict(parse_qsl(plan.request.body.decode()))
        is_filter = fields.get("AttributeName") == "FilterPolicy"
        if (
            plan.request.action == "SetSubscriptionAttributes"
            and is_filter
            and plan.request.target in self._pending_filters
        ):
            self._pending_filters[plan.request.target] = fields.get("AttributeValue", "{}")
            self._answer(plan, _sns_ok("SetSubscriptionAttributes"))
        elif self._subscribed.get(_subscription_key(plan.request)) in self._pending_filters:
            plan.request = with_form(plan.request, {k: v for k, v in fields.items() if not k.startswith("Attributes.")})

    def _overlay(self, request: Request, answer: Message) -> Message:
        """Reads show what was written, though it does not act yet."""
        if answer.status != 200:
            return answer
        if request.action == "GetQueueAttributes" and request.target in self._pending_attributes:
            wanted = json.loads(request.body).get("AttributeNames", [])
            shown = json.loads(answer.body).get("Attributes", {})
            for pending in self._pending_attributes[request.target]:
                shown |= {name: value for name, value in pending.items() if "All" in wanted or name in wanted}
            return with_body(answer, json.dumps({"Attributes": shown}).encode())
        if request.action == "GetSubscriptionAttributes" and request.target in self._pending_filters:
            return with_body(answer, show_filter(answer.body.decode(), self._pending_filters[request.target]).encode())
        return answer


_HANDLERS: dict[str, Callable[[Faults, Plan, Rule], bool]] = {kind: getattr(Faults, f"_{kind}") for kind in KINDS}


def with_form(request: Request, fields: dict[str, str]) -> Request:
    """An SNS request with these form fields."""
    return request._replace(message=with_body(request.message, urlencode(fields).encode()))


def with_filter(request: Request, policy: str) -> tuple[Request, str]:
    """A Subscribe with another filter policy, and the one it had (``{}``: none)."""
    fields = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
    numbers = [
        int(name.split(".")[2]) for name in fields if name.startswith("Attributes.entry.") and name.endswith(".key")
    ]
    for number in numbers:
        if fields[f"Attributes.entry.{number}.key"] == "FilterPolicy":
            wanted = fields[f"Attributes.entry.{number}.value"]
            return with_form(request, fields | {f"Attributes.entry.{number}.value": policy}), wanted
    number = max(numbers, default=0) + 1
    extra = {f"Attributes.entry.{number}.key": "FilterPolicy", f"Attributes.entry.{number}.value": policy}
    return with_form(request, fields | extra), "{}"


def filter_write(request: Request, arn: str, policy: str) -> Request:
    """A SetSubscriptionAttributes of the proxy's own, in the manner of ``request``."""
    fields = {"Action": "SetSubscriptionAttributes", "Version": "2010-03-31", "SubscriptionArn": arn}
    fields |= {"AttributeName": "FilterPolicy", "AttributeValue": policy}
    return with_form(request._replace(action="SetSubscriptionAttributes"), fields)


def show_filter(xml: str, policy: str) -> str:
    """A GetSubscriptionAttributes response that names this filter policy; ``{}`` shows none."""
    entry = "" if policy == "{}" else f"<entry><key>FilterPolicy</key><value>{escape(policy)}</value></entry>"
    shown = re.compile(r"<entry>\s*<key>FilterPolicy</key>\s*<value>[^<]*</value>\s*</entry>")
    return shown.sub(lambda _: entry, xml, count=1)


def _subscription_key(request: Request) -> tuple[str, str]:
    fields = dict(parse_qsl(request.body.decode()))
    return fields.get("TopicArn", ""), fields.get("Endpoint", "")


def _sns_ok(action: str) -> Message:
    body = f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ResponseMetadata><RequestId>'
    body += f"{wire.REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
    return response(200, "text/xml", body.encode())
