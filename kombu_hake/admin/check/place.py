"""Findings about region, partition, account, clock and rates, and about what could not be read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from kombu_hake.admin.check.facts import Denied, Expected, Facts, Place
from kombu_hake.admin.check.findings import Finding, Severity, found, listed
from kombu_hake.amqp import SNS_MESSAGES_PER_S, SNS_MESSAGES_PER_S_ELSEWHERE, parse_arn
from kombu_hake.config import Settings, region_of_url
from kombu_hake.quoting import quoted

__all__ = ["is_elsewhere", "of_place", "of_reads"]

#: A label of a host name, as in ``sns.eu-west-1.amazonaws.com``.
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d\Z")
_SKEW_S = 30.0
#: A region that allows as many messages a second as this needs no remark.
_ENOUGH_PER_S = 9_000


def of_place(expected: Expected, facts: Facts) -> Iterator[Finding]:
    """Where the connection leads, against where the app's addresses say that its queues and topics are."""
    settings, place = expected.settings, facts.place
    for name, address in settings.predefined_queues.items():
        yield from _of_address(f"Predefined queue {name!r}", address, settings, place)
    for name, address in settings.predefined_exchanges.items():
        yield from _of_address(f"Predefined exchange {name!r}", address, settings, place)
    for service, url in place.endpoints.items():
        labels = (urlsplit(url).hostname or "").split(".")
        region = next((label for label in labels if _REGION.match(label)), place.region)
        if region != place.region:
            what = f"The endpoint of {service} is in {region}, but the broker URL names {place.region}."
            yield found("region-mismatch", url, what)
    if settings.account_id and place.account and settings.account_id != place.account:
        what = f"The option account_id is {settings.account_id}, but the credentials belong to account {place.account}."
        yield found("account-mismatch", settings.account_id, what)
    if abs(place.clock_offset_s) > _SKEW_S:
        side = "behind" if place.clock_offset_s > 0 else "ahead of"
        what = f"This machine's clock is {abs(place.clock_offset_s):.0f} s {side} AWS's."
        yield found("clock-skew", "this machine", what)
    rate = SNS_MESSAGES_PER_S.get(place.region, SNS_MESSAGES_PER_S_ELSEWHERE)
    if expected.blueprint.topics and rate < _ENOUGH_PER_S:
        what = f"By default, SNS accepts {rate:,} messages per second in {place.region}, for all topics together."
        yield found("sns-rate", place.region, what)
    if facts.abandoned:
        count = len(facts.abandoned)
        are = "1 temporary queue has" if count == 1 else f"{count} temporary queues have"
        what = f"{are} expired: {listed(facts.abandoned)}."
        yield found("abandoned-queue", facts.abandoned[0], what, f"celery -A {expected.app} hake janitor")


def is_elsewhere(address: str, place: Place) -> bool:
    """Return True if an ARN is of another region or partition: SNS and SQS refuse it here."""
    arn = parse_arn(address)
    return (arn.region, arn.partition) != (place.region, place.partition)


def _of_address(what: str, address: str, settings: Settings, place: Place) -> Iterator[Finding]:
    access = settings.access.get(address)
    region = (access and access.region) or place.region
    partition = parse_arn(address).partition if address.startswith("arn:") else place.partition
    if partition != place.partition:
        text = f"{what} is in partition {quoted(partition)}, but the credentials belong to {place.partition}."
        yield found("partition-mismatch", address, text)
        return
    named = region_of_url(address)
    is_own_endpoint = settings.endpoint_of("sqs") is not None
    if named and named != region and not (is_own_endpoint and not address.startswith("arn:")):
        text = f"{what} is in region {named}, but the broker URL names {region}."
        yield found("region-mismatch", address, text)


def of_reads(facts: Facts, others: Iterable[Denied] = ()) -> Iterator[Finding]:
    """What could not be read, one finding for each action.

    Args:
        others: Further reads that were denied, of which it is merely good to know.
    """
    yield from _grouped(facts.denied)
    known = {one.action for one in facts.denied}
    yield from _grouped([one for one in (*facts.unseen, *others) if one.action not in known], "info")


def _grouped(denied: Iterable[Denied], severity: Severity | None = None) -> Iterator[Finding]:
    resources: dict[tuple[str, str], list[str]] = {}
    for one in denied:
        resources.setdefault((one.action, one.text), []).append(one.resource)
    for (action, text), names in resources.items():
        shown = listed(names)
        what = f"Cannot check {shown}: {text or f'{action} is denied.'}"
        remedy = "" if text else f"Allow {action} on {shown}"
        yield found("cannot-check", names[0], what, remedy, severity=severity)
