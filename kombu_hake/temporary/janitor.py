"""Removes temporary queues whose users are gone, and their subscriptions. Any process may run it, several at once too.

What it may touch
    A queue whose name is of this namespace, whose tags say that it is temporary and of this namespace, whose time is
    over by the heartbeats of its own users (:mod:`kombu_hake.amqp.ownership`), judged by AWS's clock, and that is
    *proved* to be temporary. A subscription whose queue is gone, if the queue's name proves that it was a temporary one
    of ours. The topic of a probe of `hake check`: it has the name of one of the probe's queues, so that a name that
    proves the queue to be temporary proves the topic, too.

Proof
    Anyone with ``sqs:TagQueue`` can write the tags of any queue, so tags prove nothing: if they did, ``sqs:TagQueue``
    would be ``sqs:DeleteQueue``. Two things prove that a queue was created as temporary, by us: its name, which holds a
    checksum (``naming.is_incarnation``), and its retention (``queues.retention_s``); neither can be changed by tagging.
    A queue without proof is reported as ``unproven``, and removed only if the operator at the command says so.

    Without a namespace, any queue of the account may carry any name. Then a sweep in the background looks only at names
    that look temporary, besides asking for proof.

Three looks
    1. A queue whose time is over is suspected. 2. After a third of the time that its users may be silent (by its tags,
    and never less than by our own settings), in which a living one would have renewed its heartbeat, it is looked at
    again: if any of its tags of use has changed, it is kept, whatever the clocks say. Otherwise a note is left at the
    queue. 3. A moment later it is looked at once more. Only then its subscriptions are removed, and after them the
    queue. A user that comes back renews its heartbeat and looks for the note
    (:mod:`kombu_hake.temporary.presence`). A janitor that dies in between leaves nothing but the note, or a queue
    without subscriptions, that the next one removes.

One of a fleet
    Of the processes that sweep in the background, the one whose queue is the first in use by name looks at all queues.
    Each of the others finds that queue in use by another process, with one ListQueues and mostly one ListQueueTags, and
    looks no further. One time in ten it does all the same, because the first one may lack the rights or be set to
    look after nothing.

Cost of a sweep
    ListQueues, a request for 1,000 queues of the namespace; ListQueueTags for at most :data:`MOST_LOOKS` queues, those
    first whose names look temporary; GetQueueAttributes for one whose time is over, unless its name proves enough;
    ListSubscriptionsByTopic for at most :data:`MOST_TOPICS` topics that feed them, a request for 100 subscriptions.
    What is no temporary queue is not looked at again for a day. Removing a queue takes about nine requests. A second
    lies between two requests (on an emulator less), so that it does not slow down other requests.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from kombu_hake.amqp import (
    Ownership,
    QueueUrl,
    from_tags,
    is_incarnation,
    looks_temporary,
    ownership,
    parse_arn,
    queue_name,
)
from kombu_hake.aws import Clients, forksafe
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, HakeError, InvalidName, QueueNotFound, TopologyError
from kombu_hake.quoting import guarded
from kombu_hake.topology import LEVEL_TAG, NAMESPACE_TAG, Home, Timings, Topics, lookups, retention_s, whoami

__all__ = ["MOST_LOOKS", "MOST_TOPICS", "SHORT_PAUSE_S", "Found", "Janitor", "Report"]

logger = guarded(logging.getLogger(__name__))
#: Limits of the sweeps that a process makes by itself; a command looks at everything.
MOST_LOOKS = 100
MOST_TOPICS = 5
_MOST_PAGES = 10
#: Between two requests of a sweep by command, seconds.
SHORT_PAUSE_S = 0.05
#: Fifty workers that start together make their first sweeps at random in this time: about ten requests a second.
_FIRST_WITHIN_S = 600.0
#: How often a process sweeps though another one is there to do it.
_ALL_THE_SAME = 0.1
#: Between two looks at a subscription whose queue is gone: the queue may be on its way.
_STRAY_S = 3.0
_NOT_OURS_S = 86_400.0
#: Users of a queue that the report names, at most.
_MAX_NAMED = 4


@dataclass
class Found:
    """A temporary queue."""

    name: str
    kind: str
    #: ``used``, ``waiting`` (its time is not over), ``orphan``, ``removed``, ``kept`` (it was used meanwhile), ``gone``
    #: (another process removed it), ``unproven`` (only its tags say that it is temporary).
    state: str
    #: Of those who use it, or of who did last.
    who: str
    #: In how many seconds it may be removed; negative since when; None for never: it waits for its first consumer.
    due_in_s: float | None
    url: QueueUrl = field(repr=False)
    ownership: Ownership = field(repr=False)
    #: The queue that it is a priority level of, by its name in AWS; ``""`` for a queue of its own.
    main: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("name", "kind", "state", "who", "due_in_s")}


@dataclass
class Report:
    """What a sweep found and did."""

    queues: list[Found] = field(default_factory=list)
    #: ARNs of subscriptions whose queue is gone; removed, unless the sweep was dry.
    subscriptions: list[str] = field(default_factory=list)
    #: Queues of the namespace that were not looked at, because of the limits of a sweep.
    left_out: int = 0


class Janitor:
    """Finds and removes what was left behind. Sweeps are not for use by several threads at once."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        topics: Topics,
        home: Home,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._timings = timings or Timings.of(settings)
        self._clients = clients
        self._settings = settings
        self._topics = topics
        self._home = home
        self._clock = clock
        self._chance = chance or forksafe.rng
        self._not_ours: dict[QueueUrl, float] = {}
        self._running: Iterator[float] | None = None
        self._is_own: Callable[[QueueUrl], bool] | None = None
        self._is_off = not settings.janitor_interval or settings.topology != "auto"
        #: When :meth:`step` is to be called next, monotonic seconds.
        self.due_at = float("inf")

    # --- now and then, in the background

    def start(self, is_own: Callable[[QueueUrl], bool]) -> None:
        """Schedule the first sweep for a random time soon, so that fifty workers that start together do not meet.

        Args:
            is_own: Whether this process uses a queue.
        """
        self._is_own = is_own
        self._running = None
        within_s = min(_FIRST_WITHIN_S, self._settings.janitor_interval)
        self.due_at = float("inf") if self._is_off else self._clock() + self._chance.uniform(0, within_s)

    def step(self) -> None:
        """Take a step of a sweep; ``due_at`` says when the next one is due. Faults are logged."""
        try:
            if self._running is None:
                self._running = self.sweep(
                    Report(), most=MOST_LOOKS, pause_s=self._timings.sweep_pause_s, is_own=self._is_own
                )
            self.due_at = self._clock() + next(self._running)
        except StopIteration:
            self._end()
        except AccessDenied as exc:
            self._is_off = True
            self._end()
            logger.warning(
                "HAKE506 This process does not look for abandoned temporary queues, because %s is denied. Allow it, "
                "or set janitor_interval=0: %s",
                exc.action, exc,
            )  # fmt: skip
        except HakeError as exc:
            logger.info("Postponing the search for abandoned temporary queues: %s", exc)
            self._end()
        except Exception:  # a bug of ours must not end the sweeps that follow
            logger.exception("HAKE507 Unexpected error while looking for abandoned temporary queues; retrying later.")
            self._end()

    def _end(self) -> None:
        self._running = None
        wait_s = self._settings.janitor_interval * self._chance.uniform(0.5, 1.5)
        self.due_at = float("inf") if self._is_off else self._clock() + wait_s

    # --- a sweep

    def sweep(
        self,
        report: Report,
        *,
        most: int | None = None,
        dry_run: bool = False,
        exchanges: Iterable[str] = (),
        approve: Callable[[list[Found]], bool] = lambda unproven: False,
        pause_s: float = SHORT_PAUSE_S,
        is_own: Callable[[QueueUrl], bool] | None = None,
    ) -> Iterator[float]:
        """Look, wait, remove: a request or so a step. Yields how long to wait before the next step, seconds.

        Args:
            report: Is filled.
            most: How many queues to look at; None for all.
            dry_run: Only look.
            exchanges: Look for subscriptions of queues that are gone here too, besides where temporary queues point.
            approve: Is asked once, with the queues whose time is over and that are not proved to be temporary, whether
                to remove them all the same. Not asked by a dry sweep.
            pause_s: Between two requests, seconds.
            is_own: Whether this process uses a queue; given where only one process of a fleet is to look.
        Raises:
            AccessDenied: some of it may not be done.
        """
        names: dict[str, QueueUrl] = {}
        for page in self._pages(most):
            names.update(page)
            yield pause_s
        topics = dict.fromkeys(exchanges)
        looked: dict[str, Found | None] = {}
        if is_own is not None:
            for name in sorted(filter(looks_temporary, names))[:most]:
                first = looked[name] = self._look(name, names[name], topics)
                yield pause_s
                if first is not None and first.state == "used":
                    if not is_own(first.url) and self._chance.random() >= _ALL_THE_SAME:
                        logger.debug("Leaving abandoned queues to the process that uses queue %s.", first.name)
                        return
                    break
        for name in self._choose(names, most, report):
            if name not in looked:
                looked[name] = self._look(name, names[name], topics)
                yield pause_s
        report.queues += [found for found in looked.values() if found is not None]
        # Priority levels first: their bindings are with the queue that they belong to.
        unproven = [found for found in report.queues if found.state == "unproven"]
        if unproven and not dry_run and approve(unproven):
            for found in unproven:
                found.state = "orphan"
        orphans = sorted((found for found in report.queues if found.state == "orphan"), key=lambda one: not one.main)
        strays: dict[str, str] = {}
        for exchange in list(topics)[: None if most is None else MOST_TOPICS]:
            strays.update(self._strays(exchange, names))
            yield pause_s
        report.subscriptions = list(strays)
        if dry_run or not (orphans or strays):
            return
        # Tags may claim any limit. Ours is that of a user which renews its heartbeat as this process does.
        limits_s = [max(found.ownership.limit_s(), self._settings.temporary_queue_limit) for found in orphans]
        yield max(limits_s) / 3 if limits_s else _STRAY_S
        for found in orphans:
            yield from self._remove(found, list(topics), pause_s, in_background=is_own is not None)
        report.subscriptions = []
        for arn, name in strays.items():
            if self._is_gone(name):
                self._clients.sns("unsubscribe", SubscriptionArn=arn)
                report.subscriptions.append(arn)
                logger.info("Removed subscription %s of temporary queue %s, which is gone.", arn, name)
            yield pause_s

    def _pages(self, most: int | None) -> Iterator[dict[str, QueueUrl]]:
        """Names of the queues of this namespace to their URLs."""
        namer = self._settings.namer
        for urls in islice(
            lookups.queue_pages(self._clients, namer.queue_prefix()), None if most is None else _MOST_PAGES
        ):
            yield {name: url for name, url in zip(map(queue_name, urls), urls, strict=True) if namer.owns(name)}

    def _choose(self, names: dict[str, QueueUrl], most: int | None, report: Report) -> list[str]:
        """Which queues to look at: all that fit, those first that look temporary; by chance, if there are too many."""
        if most is None:
            return sorted(names)
        now = self._clock()
        self._not_ours = {url: until for url, until in self._not_ours.items() if until > now}
        candidates = [name for name, url in names.items() if url not in self._not_ours]
        if not self._settings.namer.namespace:
            candidates = [name for name in candidates if looks_temporary(name)]
        self._chance.shuffle(candidates)
        candidates.sort(key=lambda name: not looks_temporary(name))
        report.left_out = max(0, len(candidates) - most)
        return candidates[:most]

    def _look(self, name: str, url: QueueUrl, topics: dict[str, None]) -> Found | None:
        """The queue, if it is temporary and ours; notes the exchanges that feed it."""
        try:
            tags = lookups.tags(self._clients, url)
        except QueueNotFound:
            return None
        found = self._read(tags)
        if found is None:
            self._not_ours[url] = self._clock() + _NOT_OURS_S
            return None
        topics.update(dict.fromkeys(sorted(from_tags(tags).exchanges())))
        now_s = self._now_s()
        due_s = found.due_s()
        users = found.live_users(now_s)
        state = "used" if users else "waiting"
        if due_s is not None and due_s < now_s:
            state = "orphan" if self._is_proved(name, url) else "unproven"
        named = sorted({user.who for user in users or found.users})
        who = ", ".join(named[:_MAX_NAMED] + (["..."] if len(named) > _MAX_NAMED else []))
        due_in_s = None if due_s is None else due_s - now_s
        return Found(name, str(found.kind), state, who, due_in_s, url, found, tags.get(LEVEL_TAG, ""))

    def _is_proved(self, name: str, url: QueueUrl) -> bool:
        """Return True if something that tagging cannot forge shows that the queue was created as temporary."""
        if is_incarnation(name):
            return True
        try:
            found = lookups.attributes(self._clients, url, "MessageRetentionPeriod").get("MessageRetentionPeriod")
        except (AccessDenied, QueueNotFound) as exc:
            logger.debug("Queue %s is not proved to be temporary: %s", name, exc)
            return False
        return bool(found == retention_s(self._settings, is_temporary=True))

    def _read(self, tags: dict[str, str]) -> Ownership | None:
        if tags.get(NAMESPACE_TAG) != (self._settings.namer.namespace or "-"):
            return None
        return ownership.read(tags)

    def _remove(self, found: Found, exchanges: list[str], pause_s: float, *, in_background: bool) -> Iterator[float]:
        """The second and the third look, and the removal."""
        try:
            if not self._is_unchanged(found):
                return
            yield pause_s
            note = ownership.condemned_tag(self._now_s(), whoami())
            self._clients.sqs("tag_queue", QueueUrl=found.url, Tags=note)
            yield self._timings.note_s
            if not self._is_unchanged(found):
                self._clients.sqs("untag_queue", QueueUrl=found.url, TagKeys=[ownership.CONDEMNED_TAG])
                return
            yield pause_s
            yield from self._unsubscribe(found, exchanges, pause_s)
            yield pause_s
            if found.ownership.is_of_probe and is_incarnation(found.name):
                try:
                    self._clients.sns("delete_topic", TopicArn=self._home.topic_arn(found.name))
                except AccessDenied as exc:  # the queue stays, because only its name leads to the topic
                    if not in_background:
                        raise
                    found.state = "kept"
                    logger.info("Leaving queue %s of an interrupted probe to `hake janitor`: %s", found.name, exc)
                    return
            self._clients.sqs("delete_queue", QueueUrl=found.url)
        except QueueNotFound:
            found.state = "gone"
            return
        found.state = "removed"
        logger.info("Removed temporary queue %s, abandoned by %s.", found.name, found.who or "an unknown process")

    def _is_unchanged(self, found: Found) -> bool:
        now = self._read(lookups.tags(self._clients, found.url))
        due_s = None if now is None else now.due_s()
        if now is None or due_s is None or due_s >= self._now_s() or now.signs() != found.ownership.signs():
            found.state = "kept"
            logger.info("Keeping temporary queue %s: it was used meanwhile.", found.name)
            return False
        return True

    def _unsubscribe(self, found: Found, exchanges: list[str], pause_s: float) -> Iterator[float]:
        """Remove the subscriptions of a queue to the exchanges that feed it; of a priority level, to any of these."""
        arn = lookups.attributes(self._clients, found.url, "QueueArn")["QueueArn"]
        for exchange in (
            exchanges if found.main else sorted(from_tags(lookups.tags(self._clients, found.url)).exchanges())
        ):
            yield pause_s
            try:
                items = list(self._topics.subscriptions(exchange))
            except TopologyError as exc:
                logger.debug("Exchange %s has no subscriptions: %s", exchange, exc)
                continue
            for item in items:
                if item["Endpoint"] == arn and item["SubscriptionArn"].startswith("arn:"):
                    self._clients.sns("unsubscribe", SubscriptionArn=item["SubscriptionArn"])
            self._topics.forget_subscribers(exchange)

    def _strays(self, exchange: str, names: dict[str, QueueUrl]) -> dict[str, str]:
        """ARNs of subscriptions whose queue is gone, to the queue's name; only such as prove to be ours."""
        found: dict[str, str] = {}
        home = (self._home.account(), self._clients.region())
        try:
            for item in self._topics.subscriptions(exchange):
                name = self._own_name(item, home)
                if name and name not in names and self._is_gone(name):
                    found[item["SubscriptionArn"]] = name
        except AccessDenied as exc:
            logger.info("Cannot search for subscriptions of deleted queues: %s", exc)
        except TopologyError as exc:
            logger.debug("Exchange %s has no subscriptions: %s", exchange, exc)
        return found

    def _own_name(self, item: dict[str, str], home: tuple[str | None, str]) -> str:
        """The name of the queue of a subscription, if that was a temporary one of this namespace; else ``""``."""
        if item["Protocol"] != "sqs" or not item["SubscriptionArn"].startswith("arn:"):
            return ""
        try:
            arn = parse_arn(item["Endpoint"])
        except InvalidName:
            return ""
        is_ours = (arn.account, arn.region) == home and self._settings.namer.owns(arn.name)
        return arn.name if is_ours and is_incarnation(arn.name) else ""

    def _is_gone(self, name: str) -> bool:
        try:
            lookups.queue_url(self._clients, name)
        except QueueNotFound:
            return True
        return False

    def _now_s(self) -> float:
        return self._clients.now_ms() / 1000
