"""Business partners of the shop, over HTTP. They are slow, and sometimes down."""

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from django.conf import settings

TIMEOUT_S = 10


class PartnerDown(Exception):
    """It did not answer, or asks to try later: worth another try."""


class PartnerRefuses(Exception):
    """It answered no: asking again will not help."""


def ask(partner: str, order_id: int) -> dict[str, Any]:
    """Have a partner do its part for an order.

    Returns:
        Its answer; ``{}`` if the shop has no partners.
    """
    if not settings.PARTNERS_URL:
        return {}
    try:
        with urlopen(f"{settings.PARTNERS_URL}/{partner}/{order_id}", timeout=TIMEOUT_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except HTTPError as exc:
        error = PartnerDown if exc.code >= 500 else PartnerRefuses
        raise error(f"{partner}: {exc.reason}") from exc
    except (OSError, HTTPException) as exc:
        raise PartnerDown(f"{partner}: {exc}") from exc
