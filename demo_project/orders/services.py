"""Placing orders: store, and say so. Whoever is interested does the rest."""

from collections.abc import Iterable

from django.db import transaction

import kombu_hake
from orders.events import orders
from orders.models import Order, Product


@transaction.atomic
def place_order(product: Product) -> Order:
    """Store an order and publish it: after the commit, and not at all if the transaction is rolled back."""
    order = Order.objects.create(product=product)
    orders.publish_on_commit("placed", order_id=order.pk)
    return order


def place_orders(products: Iterable[Product]) -> list[Order]:
    """Many at once: one transaction, and then ten orders to a request."""
    with kombu_hake.batch(), transaction.atomic():
        return [place_order(product) for product in products]
