"""How late AWS may be, and how often it is asked: one value, injected into what reads or writes topology. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kombu_hake.amqp import SQS_ATTRIBUTES_SETTLE_S, SQS_QUEUE_READY_S
from kombu_hake.config import Settings

__all__ = ["BELIEVE_S", "Timings"]

#: How long what was seen of a binding is believed: the queue may be deleted and created again.
BELIEVE_S = 60.0


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
    #: Between two notes at an expiring queue that it is in use.
    touch_s: float = 60.0
    #: How long it is believed whether a queue is temporary.
    kind_s: float = 600.0
    #: Between two requests of a janitor that works in the background.
    sweep_pause_s: float = 1.0
    #: From a janitor's note until its last look at a queue: how fast every reader sees a tag is not documented.
    note_s: float = 3.0

    @classmethod
    def of(cls, settings: Settings) -> Timings:
        """The timings of AWS, or of an emulator on this machine, which shows and does everything at once."""
        return cls(0.0, 0.0, 0.0, 0.0, sweep_pause_s=0.05, note_s=0.05) if settings.is_local else cls()
