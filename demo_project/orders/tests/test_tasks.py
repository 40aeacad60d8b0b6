"""The handlers."""

from unittest.mock import patch

from django.test import TestCase, override_settings

from orders import partners, tasks
from orders.models import Order, Product
from orders.tests.support import product


class HandlerTests(TestCase):
    def setUp(self) -> None:
        self.product = product()
        self.order = Order.objects.create(product=self.product)

    def test_a_handler_that_runs_twice_does_its_work_once(self) -> None:
        for _ in range(2):
            for handler in (tasks.send_receipt, tasks.reserve_stock, tasks.count_revenue, tasks.rate_risk):
                handler.run(order_id=self.order.pk)
        self.assertEqual(Product.objects.get(pk=self.product.pk).stock, self.product.stock - 1)

    def test_the_risk_is_what_the_rating_agency_answers(self) -> None:
        with patch.object(partners, "ask", return_value={"risk": 42}):
            tasks.rate_risk.run(order_id=self.order.pk)
        self.order.refresh_from_db()
        self.assertEqual(self.order.risk, 42)

    @override_settings(PARTNERS_URL="http://127.0.0.1:9")
    def test_a_partner_that_does_not_answer_is_asked_again(self) -> None:
        with self.assertRaises(partners.PartnerDown):
            partners.ask("mail", self.order.pk)
        self.assertIn(partners.PartnerDown, tasks.send_receipt.autoretry_for)
