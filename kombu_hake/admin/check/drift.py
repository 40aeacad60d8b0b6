"""Differences between what AWS shows and what ``apply`` makes, but for those that have a finding of their own. Pure.

A difference has a key, ``what|name|attribute``, and a finding has patterns of the keys that it explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from kombu_hake.admin.check.facts import Expected
from kombu_hake.admin.check.findings import Finding, found
from kombu_hake.amqp import parse_arn
from kombu_hake.topology import Drift

__all__ = ["about_queue", "about_subscription", "about_topic", "at_queue", "of_drift"]


def about_queue(arn: str) -> set[str]:
    """Everything about a queue and its subscriptions."""
    name = parse_arn(arn).name
    return {f"*|{name}|*", f"subscription|* -> {name}|*"}


def about_topic(arn: str) -> set[str]:
    """Everything about a topic and its subscriptions."""
    name = parse_arn(arn).name
    return {f"*|{name}|*", f"subscription|{name} -> *|*"}


def about_subscription(topic_arn: str, queue_arn: str, *attributes: str) -> set[str]:
    """Some attributes of a subscription; all, if none is named."""
    name = f"{parse_arn(topic_arn).name} -> {parse_arn(queue_arn).name}"
    return {f"subscription|{name}|{attribute}" for attribute in attributes or ("*",)}


def at_queue(arn: str, *attributes: str) -> set[str]:
    """Some attributes of a queue; ``Policy`` is one of them."""
    name = parse_arn(arn).name
    return {f"policy|{name}|" if one == "Policy" else f"attribute|{name}|{one}" for one in attributes}


def of_drift(expected: Expected, differences: Iterable[Drift], findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for each difference that no other finding explains."""
    patterns = [pattern for finding in findings for pattern in finding.explains]
    plan = f"celery -A {expected.app} hake plan"
    for one in differences:
        keys = [f"{one.what}|{one.name}|{attribute}" for attribute in one.attributes or ("",)]
        if not all(any(fnmatchcase(key, pattern) for pattern in patterns) for key in keys):
            yield found(
                "drift", one.name, f"apply would {one.action} {one.what} {one.name}: {one.reason}",
                f"{plan} shows the difference, {expected.apply} removes it",
                severity=None if expected.is_ours_to_make else "info",
            )  # fmt: skip
