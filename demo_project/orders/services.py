"""Placing orders: store one, and publish that it was placed. The groups that listen do the rest."""

from collections.abc import Iterable
from typing import Any

from django.db import transaction

import kombu_hake
from orders.events import orders
from orders.models import Order, Product


@transaction.atomic
def place_order(product: Product, customer: Any = None) -> Order:
    """Store an order and publish it: after the commit, and not at all if the transaction is rolled back.

    Raises:
        kombu.exceptions.OperationalError: The order is stored, but AWS did not accept the event. The admin can publish
            it again.
    """
    order = Order.objects.create(product=product, customer=customer)
    orders.publish_on_commit("placed", order_id=order.pk)
    return order


def place_orders(products: Iterable[Product]) -> list[Order]:
    """Place many orders: in one transaction, and then published ten per request."""
    with kombu_hake.batch(), transaction.atomic():
        return [place_order(product) for product in products]


def publish_again(placed: Iterable[Order]) -> int:
    """Publish orders that are stored already; returns how many."""
    count = 0
    with kombu_hake.batch():
        for order in placed:
            orders.publish("placed", order_id=order.pk)
            count += 1
    return count
