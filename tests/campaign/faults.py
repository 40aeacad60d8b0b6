"""The kinds of fault: what the proxy does, and what workers and publishers are told to make of silence."""

from dataclasses import dataclass

from support.proxy_rules import Rule

#: Every tenth request.
SHARE = 0.1


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        says: What is done to requests.
        rules: For the proxy; journal entries are written only while there are rules.
        lasting: Seconds for which a declaration takes no effect: publishing starts so long after the workers.
        loses_answers: Whether a request may take effect without an answer.
        phases: Instead of *rules* all the time: (seconds, rules) in turn, again and again.
        renews_keys: Whether workers and publishers have temporary keys, of the proxy.
        large: Bytes of an event, which then goes through S3, and is retried in each group with an object for each try.
    """

    says: str
    rules: tuple[Rule, ...]
    lasting: float = 0.0
    loses_answers: bool = False
    phases: tuple[tuple[float, tuple[Rule, ...]], ...] = ()
    renews_keys: bool = False
    large: int = 0

    def rules_at(self, seconds: float) -> tuple[Rule, ...]:
        """The rules so many seconds after the begin."""
        left = seconds % sum(length for length, _ in self.phases) if self.phases else 0.0
        for length, rules in self.phases:
            if left < length:
                return rules
            left -= length
        return self.rules


def _each(kind: str, action: str | None = None, **more: float) -> Rule:
    return Rule(kind, action, probability=SHARE, **more)  # type: ignore[arg-type]


def _skewed(seconds: float) -> tuple[Rule, ...]:
    return (Rule("skewed", seconds=seconds),)


_YOUNG = Rule("old_keys", seconds=60.0)
_NO_KEYS = Rule("no_keys")

KINDS = {
    "none": Kind("nothing but the kills", (Rule("delay", probability=0.0),)),
    # Whoever has a connection loses it: one in a hundred requests takes a dozen others with it.
    "refused": Kind("all connections reset, new ones refused for 0.3 s", (
        Rule("refuse", probability=0.01, seconds=0.3),), loses_answers=True),
    "reset": Kind("connection reset before, or in the middle of the answer", (
        Rule("reset", probability=SHARE / 2), Rule("cut", probability=SHARE / 2)), loses_answers=True),
    "black-hole": Kind("never answered", (_each("black_hole"),)),
    "slow": Kind("answered 2 s later", (_each("delay", seconds=2.0),)),
    "500": Kind("500", (_each("status", status=500),)),
    "503": Kind("503", (_each("status", status=503),)),
    "throttled": Kind("throttled, in the two forms of each service", (
        Rule("throttle", probability=SHARE / 2), Rule("throttle", probability=SHARE / 2, status=403))),
    "lost-response": Kind("took effect, and the answer is lost", (_each("lost_response"),), loses_answers=True),
    "partial": Kind("a batch's entries refused one by one", (_each("partial_failure"),)),
    "duplicate": Kind("what is received comes again", (_each("duplicate"),)),
    "reorder": Kind("shuffled, and one kept back", (_each("reorder"),)),
    "expired": Kind("the credentials have expired, then they are fine", (_each("expired"),)),
    "delayed-effect": Kind("policies and filters act 2 s later", (Rule("delayed_effect", seconds=2.0),), lasting=4.0),
    # Keys are renewed every three seconds. Their source fails, which must not be felt; then they are refused as well.
    "credentials": Kind("renewing the credentials fails, then they are refused", (_YOUNG,), phases=(
        (8.0, (_YOUNG,)), (5.0, (_YOUNG, _NO_KEYS)), (5.0, (Rule("old_keys", seconds=4.0), _NO_KEYS))),
        renews_keys=True),
    "clock": Kind("AWS's clock jumps by twenty minutes, there and back", _skewed(0.0), phases=(
        (5.0, _skewed(0.0)), (5.0, _skewed(1_200.0)), (5.0, _skewed(0.0)), (5.0, _skewed(-1_200.0)))),
    "s3": Kind("messages of 1.1 MiB, and a tenth of S3's requests fail", (
        *(Rule(kind, "*Object", probability=SHARE / 4) for kind in ("status", "reset", "cut", "lost_response")),),
        large=1_153_434),
}  # fmt: skip

#: Of several kinds a little, for a run that is short.
MIXED = Kind("a little of everything", (
    *(Rule(kind, probability=SHARE / 3) for kind in ("lost_response", "status", "reset", "throttle", "expired")),
    *(_each(kind) for kind in ("partial_failure", "duplicate", "reorder")),
), loses_answers=True)  # fmt: skip
