"""How late AWS may be: one value, injected into everything in this package that reads or writes topology. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kombu_hake.amqp import SQS_ATTRIBUTES_SETTLE_S, SQS_QUEUE_READY_S
from kombu_hake.config import Settings

__all__ = ["Timings"]


@dataclass(frozen=True)
class Timings:
    """Durations in seconds. The defaults are those of AWS."""

    #: From CreateQueue until the queue may be used.
    queue_ready_s: float = SQS_QUEUE_READY_S
    #: From a change of a queue's attributes, its policy included, or of a subscription's, until every read shows it and
    #: AWS acts on it.
    attributes_s: float = SQS_ATTRIBUTES_SETTLE_S
    #: From a change of a queue's tags until every read shows it. AWS documents no bound.
    tags_s: float = 60.0
    #: Between two reads of a queue's tags that are made because a message matches no known binding.
    tags_reread_s: float = 180.0

    @classmethod
    def of(cls, settings: Settings) -> Timings:
        """The timings of AWS; zeros for an emulator on this machine, which shows and does everything at once."""
        return cls(0.0, 0.0, 0.0, 0.0) if settings.is_local else cls()
