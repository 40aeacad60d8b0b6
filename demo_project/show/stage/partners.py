"""The shop's business partners: slow, as the outside world is, and down when the show wants it.

The rating agency is down now and then: for every fourth order the first time it is asked, for every twelfth twice. So
its group retries, and the others don't notice. By number and not by chance, so that a run can be repeated.
"""

import threading
import time
from collections import Counter
from typing import Any

from show.stage.loopback import Refused

PARTNERS_VARIABLE = "SHOP_PARTNERS_URL"
PARTNER_OF = {"email": "mail", "inventory": "warehouse", "analytics": "ledger", "fraud": "rating"}
WORK_S = {"mail": 0.6, "warehouse": 0.9, "ledger": 0.25, "rating": 1.2}


class Partners:
    """Answers ``/partner/order``. Used by many threads.

    Args:
        pace: Factor of the time that the work takes; 0 answers immediately.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, int]] = Counter()
        self._at_work: Counter[tuple[str, int]] = Counter()
        self._broken: set[str] = set()

    def answer(self, path: str, _headers: Any, _body: dict[str, Any]) -> dict[str, Any]:
        """Raises: Refused, with 503 when the partner is down for now, 422 when it is broken."""
        _, partner, number = path.split("/")
        order = int(number)
        with self._lock:
            self._asked[partner, order] += 1
            asked = self._asked[partner, order]
            self._at_work[partner, order] += 1
        try:
            # Not all orders take the same: between three and five quarters of the usual.
            time.sleep(WORK_S.get(partner, 0.0) * self._pace * (0.75 + order * 7 % 11 / 20))
        finally:
            with self._lock:
                self._at_work[partner, order] -= 1
                is_broken = partner in self._broken
        if is_broken:
            raise Refused(422, "out of order")
        if partner == "rating" and asked <= (order % 4 == 0) + (order % 12 == 0):
            raise Refused(503, "busy")
        return {"order": order, "risk": order * 37 % 100}

    def switch(self, partner: str, *, broken: bool) -> None:
        """Broken ones refuse every request."""
        with self._lock:
            (self._broken.add if broken else self._broken.discard)(partner)

    def is_broken(self, partner: str) -> bool:
        """Whether it refuses."""
        with self._lock:
            return partner in self._broken

    def at_work(self, partner: str) -> list[int]:
        """The orders that a partner is busy with right now: their tasks are in the middle."""
        with self._lock:
            return [order for (each, order), count in self._at_work.items() if each == partner and count]
