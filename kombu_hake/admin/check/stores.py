"""Findings about the buckets of large messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kombu_hake.admin.check.facts import Expected, Facts, StoreFacts
from kombu_hake.admin.check.findings import Finding, found
from kombu_hake.amqp import SQS_DEFAULT_RETENTION_S, Store, lifecycle_rules, whole
from kombu_hake.quoting import quoted

__all__ = ["of_stores"]

_DAY_S = 86_400


def of_stores(expected: Expected, facts: Facts) -> Iterator[Finding]:
    """Everything about the buckets of large messages."""
    longest_s = max(
        (seen.number("MessageRetentionPeriod", SQS_DEFAULT_RETENTION_S) for seen in facts.queues.values() if seen.url),
        default=0,
    )
    for store, seen in facts.stores.items():
        where = f"s3://{store.bucket}"
        if seen.fault:
            yield found("bucket-unreachable", where, f"Bucket {store.bucket} cannot be reached: {seen.fault}")
        elif seen.exists is False:
            yield found("bucket-missing", where, f"Bucket {store.bucket} of large messages does not exist.")
        else:
            yield from _of_region(where, store, seen, facts.place.region)
            yield from _of_rules(where, store, seen, longest_s)


def _of_region(where: str, store: Store, seen: StoreFacts, region: str) -> Iterator[Finding]:
    if seen.region and seen.region != region:
        what = f"Bucket {store.bucket} is in {quoted(seen.region)}, but the queues are in {region}."
        yield found("bucket-elsewhere", where, what)


def _of_rules(where: str, store: Store, seen: StoreFacts, longest_s: int) -> Iterator[Finding]:
    if seen.rules is None:
        return
    lacking = []
    for rule in lifecycle_rules(store):
        days = _days(seen.rules, rule["Filter"]["Prefix"])
        if days is None:
            lacking.append(rule)
        elif days * _DAY_S < longest_s:
            what = (
                f"Objects below {where}/{rule['Filter']['Prefix']} are deleted after {days} days, but queues keep "
                f"messages for {-(-longest_s // _DAY_S)} days."
            )
            yield found("lifecycle-short", where, what)
    if lacking:
        prefixes = " and ".join(f"{where}/{rule['Filter']['Prefix']}" for rule in lacking)
        what = f"No lifecycle rule deletes the objects below {prefixes}."
        remedy = f"Add to the lifecycle rules of bucket {store.bucket}: {json.dumps(lacking)}"
        yield found("lifecycle-missing", where, what, remedy)


def _days(rules: tuple[Mapping[str, Any], ...], prefix: str) -> int | None:
    """After how many days the first rule to do so deletes every object below a prefix; None for never."""
    found = []
    for rule in rules:
        expiration = rule.get("Expiration")
        days = whole(expiration.get("Days")) if isinstance(expiration, Mapping) else None
        covered = _covered(rule)
        if rule.get("Status") == "Enabled" and days and covered is not None and prefix.startswith(covered):
            found.append(days)
    return min(found, default=None)


def _covered(rule: Mapping[str, Any]) -> str | None:
    """The prefix of a rule; None if it depends on tags or sizes."""
    given = rule.get("Filter")
    if given is None:
        given = {"Prefix": rule.get("Prefix") or ""}  # rules of an older kind
    if isinstance(given, Mapping) and set(given) == {"And"}:
        given = given["And"]
    if not isinstance(given, Mapping) or set(given) - {"Prefix"}:
        return None
    return str(given.get("Prefix") or "")
