"""What the credentials of this process may do, for each role of the application: asked without any effect.

How an action is judged
    A read is judged by the reads of the check itself. Other actions are tried *empty*: a batch without entries, a
    change of no attribute, a receive of no message. AWS can do nothing for such a request. It answers that the right
    is missing, or that the request is empty. It may notice the latter first, so an action that was not denied counts
    as ``not denied``, and never as proved. Some actions have no empty form: those that create, subscribe and delete,
    and writing to S3.

    Where the credentials may call ``iam:SimulatePrincipalPolicy``, AWS evaluates their policies: this proves what is
    allowed, and it is the only way to learn about actions without an empty form.

What this cannot tell
    Rights on KMS keys, and those for remote control and events; what a service control policy, an endpoint policy of a
    VPC or a condition on the request denies, unless the empty request met it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from kombu_hake.admin.check.facts import Expected, Facts
from kombu_hake.admin.check.findings import Finding, found, listed
from kombu_hake.admin.export.rights import GRANTS, payloads_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError, QueueNotFound, TopicNotFound

__all__ = ["Right", "RightsReader", "Verdict", "of_rights", "usual_roles"]

Verdict: TypeAlias = Literal["allowed", "not denied", "denied", "unknown"]
#: Resources of one request: an answer has a result for each action and resource, and AWS gives 1,000 at most.
_SIMULATED_MOST = 50
#: Kinds of resources that a check looks at, of those that roles need rights on.
_KINDS = ("queues", "dead_queues", "topics", "payloads")
#: Without these, topics have no tags, and ages of messages are unknown.
_OPTIONAL = {"sns:TagResource", "sns:ListTagsForResource", "cloudwatch:GetMetricData"}
#: Actions that the check itself does: what it was denied is known.
_READS = {
    "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ListQueueTags", "sns:GetTopicAttributes",
    "sns:ListSubscriptionsByTopic", "sns:GetSubscriptionAttributes",
}  # fmt: skip
#: Rationed by AWS, or one resource tells: tried on one queue.
_ONCE = {"sqs:SetQueueAttributes", "sqs:TagQueue", "sqs:UntagQueue"}
#: boto3's call and the parameters that make it do nothing. Beside these it gets a queue URL or topic ARN.
_EMPTY: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sqs:SendMessage": ("send_message_batch", {"Entries": []}),
    "sqs:DeleteMessage": ("delete_message_batch", {"Entries": []}),
    "sqs:ChangeMessageVisibility": ("change_message_visibility_batch", {"Entries": []}),
    # Refused: it must be 1 to 10. If it were not, what is received would be visible at once.
    "sqs:ReceiveMessage": (
        "receive_message", {"MaxNumberOfMessages": 0, "VisibilityTimeout": 0, "WaitTimeSeconds": 0}
    ),
    "sqs:SetQueueAttributes": ("set_queue_attributes", {"Attributes": {}}),
    "sqs:TagQueue": ("tag_queue", {"Tags": {}}),
    "sqs:UntagQueue": ("untag_queue", {"TagKeys": []}),
    "sns:Publish": ("publish_batch", {"PublishBatchRequestEntries": []}),
}  # fmt: skip
#: Reads of what the check has no other use for.
_LISTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "sqs:ListQueues": ("sqs", "list_queues", {"MaxResults": 1}),
    "sns:ListTopics": ("sns", "list_topics", {}),
}


@dataclass(frozen=True)
class Right:
    """One action of a role on one resource.

    Attributes:
        resource: ARN, or ``*``.
        verdict: ``allowed``, ``not denied`` (AWS did not deny an empty request), ``denied``, or ``unknown``: it cannot
            be told without doing it.
    """

    role: str
    action: str
    resource: str
    verdict: Verdict

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def usual_roles(expected: Expected) -> list[str]:
    """The roles that the app's own processes have, by its settings."""
    return ["producer", "consumer", *(["declarer"] if expected.is_ours_to_make else [])]


def of_rights(expected: Expected, facts: Facts, rights: Iterable[Right]) -> Iterator[Finding]:
    """One finding for each action that is denied, unless the check itself was denied it."""
    seen = {one.action for one in (*facts.denied, *facts.unseen)}
    roles: dict[str, dict[str, None]] = {}
    resources: dict[str, dict[str, None]] = {}
    for right in rights:
        if right.verdict == "denied" and right.action not in seen:
            roles.setdefault(right.action, {})[right.role] = None
            resources.setdefault(right.action, {})[right.resource] = None
    for action, names in resources.items():
        every, needed_by = list(names), " and ".join(roles[action])
        what = f"These credentials may not call {action} on {listed(every)}: the role {needed_by} needs it."
        statement = {"Effect": "Allow", "Action": action, "Resource": every}
        yield found("right-missing", every[0], what, f"Add to its IAM policy: {json.dumps(statement)}")


class RightsReader:
    """Asks AWS. Not safe for concurrent use by threads."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._known: dict[tuple[str, str], Verdict] = {}
        #: The verdict on each action of _ONCE.
        self._once: dict[str, Verdict] = {}

    def read(self, expected: Expected, facts: Facts, roles: Iterable[str]) -> list[Right]:
        """Judge each action of some roles on the app's queues and topics that exist."""
        wanted = list(
            dict.fromkeys(
                (role, action, resource)
                for role in roles
                for grant in GRANTS
                for action in grant.actions
                for kind in grant.kinds
                if role in grant.roles and kind in _KINDS and action not in _OPTIONAL
                for resource in (["*"] if grant.is_any else _resources(expected, facts, kind, action))
            )
        )
        for action in _ONCE:
            queue = _queue_to_try(action, [resource for _, of, resource in wanted if of == action], facts)
            self._once[action] = self._try_empty(action, queue, facts) if queue is not None else "unknown"
        simulated = self._simulate(sorted({(action, resource) for _, action, resource in wanted}))
        rights = []
        for role, action, resource in wanted:
            if (action, resource) not in self._known:
                verdict = self._judge(action, resource, facts)
                known = simulated.get((action, resource))
                if known is not None and (verdict == "unknown" or (verdict, known) == ("not denied", "allowed")):
                    verdict = known
                self._known[action, resource] = verdict
            rights.append(Right(role, action, resource, self._known[action, resource]))
        return rights

    def _judge(self, action: str, resource: str, facts: Facts) -> Verdict:
        if action.startswith("s3:"):
            return _of_objects(action, resource, facts)
        if action in _READS:
            reads = (*facts.denied, *facts.unseen)
            denied = {one.resource for one in reads if one.action == action}
            return "denied" if resource in denied or (resource == "*" and denied) else "allowed"
        if action in _ONCE:
            return self._once[action]
        if action in _LISTS:
            return self._try(*_LISTS[action], if_done="allowed")
        return self._try_empty(action, resource, facts) if action in _EMPTY else "unknown"

    def _try_empty(self, action: str, resource: str, facts: Facts) -> Verdict:
        operation, params = _EMPTY[action]
        service = action.partition(":")[0]
        address = {"TopicArn": resource} if service == "sns" else {"QueueUrl": facts.queues[resource].url}
        return self._try(service, operation, {**address, **params})

    def _try(self, service: str, operation: str, params: Mapping[str, Any], if_done: Verdict = "not denied") -> Verdict:
        call = self._clients.sns if service == "sns" else self._clients.sqs
        try:
            call(operation, **params)
        except AccessDenied:
            return "denied"
        except (QueueNotFound, TopicNotFound):
            return "unknown"
        except HakeError as exc:
            return "unknown" if isinstance(exc, BrokerUnavailable) else "not denied"
        return if_done

    def _simulate(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Verdict]:
        """What the policies of the credentials say, by action and resource; nothing where that may not be asked."""
        actions: dict[str, tuple[str, ...]] = {}
        for action, resource in wanted:
            actions[resource] = (*actions.get(resource, ()), action)
        verdicts: dict[tuple[str, str], Verdict] = {}
        try:
            principal = _principal(self._clients.caller_arn())
            if principal is None:
                return {}
            for alike in dict.fromkeys(actions.values()):
                resources = [resource for resource, of in actions.items() if of == alike]
                for start in range(0, len(resources), _SIMULATED_MOST):
                    answer = self._clients.iam(
                        "simulate_principal_policy", PolicySourceArn=principal, ActionNames=list(alike),
                        ResourceArns=resources[start : start + _SIMULATED_MOST], MaxItems=1_000,
                    )  # fmt: skip
                    verdicts |= _evaluated(answer)
        except HakeError:
            return {}
        return verdicts


def _queue_to_try(action: str, arns: Iterable[str], facts: Facts) -> str | None:
    """The queue on which an action is tried for all of them.

    Setting no attribute removes the policy of a queue in moto, so it is tried only on a queue without a policy.
    """
    has_policy = {arn: "Policy" in (facts.queues[arn].attributes or {"Policy": ""}) for arn in arns}
    found = next((arn for arn, has in has_policy.items() if not has), None)
    return found if found is not None or action == "sqs:SetQueueAttributes" else next(iter(has_policy), None)


def _evaluated(answer: Mapping[str, Any]) -> dict[tuple[str, str], Verdict]:
    """A result is of one resource, or has a list of those of several."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    for result in answer.get("EvaluationResults") or ():
        action = str(result.get("EvalActionName"))
        of_each = [
            (one.get("EvalResourceName"), one.get("EvalResourceDecision"))
            for one in result.get("ResourceSpecificResults") or ()
        ]
        for resource, decision in of_each or [(result.get("EvalResourceName"), result.get("EvalDecision"))]:
            verdicts[action, str(resource)] = "allowed" if decision == "allowed" else "denied"
    return verdicts


def _resources(expected: Expected, facts: Facts, kind: str, action: str) -> list[str]:
    """The resources of an action: those that exist, if the action is tried on them."""
    is_tried = action in _EMPTY or action in _READS
    is_creation = action in ("sqs:CreateQueue", "sns:CreateTopic")
    if kind == "payloads":
        return [payloads_arn(store, facts.place.partition) for store in expected.stores]
    if kind == "topics":
        return [
            topic.arn
            for topic in expected.blueprint.topics
            if topic.arn in facts.topics
            and not (is_tried and facts.topics[topic.arn].exists is False)
            and not (is_creation and topic.is_predefined)
        ]
    roles = ("queue", "level") if kind == "queues" else ("dead", "undelivered")
    return [
        queue.arn
        for queue in expected.blueprint.queues
        if queue.role in roles
        and queue.arn in facts.queues
        and not (is_tried and facts.queues[queue.arn].url is None)
        and not (is_creation and queue.is_predefined)
    ]


def _of_objects(action: str, resource: str, facts: Facts) -> Verdict:
    """Of objects in S3, reading alone can be tried without changing anything."""
    if action != "s3:GetObject":
        return "unknown"
    of = {payloads_arn(store, facts.place.partition): seen.is_readable for store, seen in facts.stores.items()}
    is_readable = of.get(resource)
    return "unknown" if is_readable is None else "allowed" if is_readable else "denied"


def _principal(caller: str) -> str | None:
    """The user or role whose policies hold for a caller; None for the root user and for federated ones.

    STS leaves out the path of a role, so a role with a path is not found by IAM.
    """
    parts = caller.split(":", 5)
    if len(parts) != 6:
        return None
    _, partition, service, _, account, name = parts
    kind, _, rest = name.partition("/")
    if (service, kind) == ("iam", "user"):
        return caller
    if (service, kind) == ("sts", "assumed-role"):
        return f"arn:{partition}:iam::{account}:role/{rest.partition('/')[0]}"
    return None
