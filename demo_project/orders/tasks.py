"""What the groups do when an order was placed: one handler each. `celery -A shop worker -Q email` runs a group.

If a worker dies, or its lease ends, the handler runs again. So each handler has the same effect when it runs twice.
"""

from django.db import transaction
from django.db.models import F

from orders import partners
from orders.events import orders
from orders.models import Order, Product

# If a partner is down for a moment, this group alone tries again; what still fails then is a dead letter.
TRY_AGAIN = {"autoretry_for": (partners.PartnerDown,), "default_retry_delay": 2, "max_retries": 5}


@orders.on("placed", group="email", **TRY_AGAIN)
def send_receipt(order_id: int) -> None:
    # The mail service sends one receipt for an order number, however often it is asked.
    partners.ask("mail", order_id)


@orders.on("placed", group="inventory", **TRY_AGAIN)
def reserve_stock(order_id: int) -> None:
    partners.ask("warehouse", order_id)
    with transaction.atomic():
        # Only the first run finds the order not reserved, so a second one takes nothing.
        if Order.objects.filter(pk=order_id, is_reserved=False).update(is_reserved=True):
            Product.objects.filter(orders=order_id).update(stock=F("stock") - 1)


@orders.on("placed", group="analytics", **TRY_AGAIN)
def count_revenue(order_id: int) -> None:
    partners.ask("ledger", order_id)
    Order.objects.filter(pk=order_id).update(is_counted=True)


@orders.on("placed", group="fraud", **TRY_AGAIN)
def rate_risk(order_id: int) -> None:
    answer = partners.ask("rating", order_id)
    Order.objects.filter(pk=order_id).update(risk=answer.get("risk", 0))
