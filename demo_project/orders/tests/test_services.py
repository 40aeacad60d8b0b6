"""Placing orders: what is published, and when."""

from unittest.mock import patch

from django.db import transaction
from django.test import TestCase

from orders.events import orders
from orders.models import Order, Product
from orders.services import place_order, place_orders, publish_again
from orders.tests.support import handlers_in_place, product


class PlaceOrderTests(TestCase):
    def test_an_order_is_handled_by_every_group_after_the_commit(self) -> None:
        wanted = product()
        with handlers_in_place(), self.captureOnCommitCallbacks(execute=True):
            order = place_order(wanted)
            self.assertFalse(Order.objects.get().is_reserved)
        order.refresh_from_db()
        self.assertTrue(order.is_reserved)
        self.assertTrue(order.is_counted)
        self.assertEqual(order.risk, 0)
        self.assertEqual(Product.objects.get(pk=wanted.pk).stock, wanted.stock - 1)

    def test_an_order_that_is_rolled_back_is_not_published(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            try:
                with transaction.atomic():
                    place_order(product())
                    raise KeyError
            except KeyError:
                pass
        self.assertEqual(callbacks, [])
        self.assertFalse(Order.objects.exists())

    def test_many_orders_are_placed_in_one_transaction(self) -> None:
        with handlers_in_place(), self.captureOnCommitCallbacks(execute=True):
            placed = place_orders([product()] * 3)
        self.assertEqual(Order.objects.filter(is_reserved=True).count(), len(placed))

    def test_a_stored_order_can_be_published_again(self) -> None:
        order = Order.objects.create(product=product())
        with patch.object(orders, "publish") as publish:
            self.assertEqual(publish_again([order]), 1)
        publish.assert_called_once_with("placed", order_id=order.pk)
