"""The page, and who may do what on it."""

from unittest.mock import patch

from django.test import Client, TestCase
from django.urls import reverse
from kombu.exceptions import OperationalError

from orders import services
from orders.models import Order
from orders.tests.support import customer, handlers_in_place, product


class StorefrontTests(TestCase):
    def test_everybody_may_look(self) -> None:
        shown = self.client.get(reverse("storefront"))
        self.assertContains(shown, product().name)
        self.assertNotContains(shown, "Place the order")

    def test_placing_an_order_needs_a_login(self) -> None:
        answer = self.client.post(reverse("place"), {"product": product().pk})
        self.assertRedirects(answer, f"{reverse('login')}?next={reverse('place')}")
        self.assertFalse(Order.objects.exists())

    def test_placing_an_order_needs_a_token(self) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(customer())
        self.assertEqual(strict.post(reverse("place"), {"product": product().pk}).status_code, 403)
        self.assertFalse(Order.objects.exists())

    def test_a_customer_sees_their_own_orders(self) -> None:
        user = customer()
        Order.objects.create(product=product())
        self.client.force_login(user)
        with handlers_in_place(), self.captureOnCommitCallbacks(execute=True):
            answer = self.client.post(reverse("place"), {"product": product().pk}, follow=True)
        order = Order.objects.get(customer=user)
        self.assertContains(answer, f"Your order has number {order.pk}.")
        self.assertEqual(list(answer.context["orders"]), [order])

    def test_a_wrong_form_places_nothing(self) -> None:
        self.client.force_login(customer())
        for form in ({"product": "77"}, {"product": "teapot"}, {}):
            self.assertEqual(self.client.post(reverse("place"), form).status_code, 400)
        self.assertFalse(Order.objects.exists())

    def test_an_order_that_cannot_be_published_is_stored(self) -> None:
        self.client.force_login(customer())
        with (
            patch.object(services.orders, "publish_on_commit", side_effect=OperationalError),
            self.assertLogs("orders.views", "ERROR"),
        ):
            answer = self.client.post(reverse("place"), {"product": product().pk}, follow=True)
        self.assertContains(answer, "It may take longer than usual.")


class AdminTests(TestCase):
    def test_the_admin_needs_a_login_of_staff(self) -> None:
        self.client.force_login(customer())
        page = reverse("admin:orders_order_changelist")
        self.assertRedirects(self.client.get(page), f"{reverse('admin:login')}?next={page}")

    def test_staff_publish_an_order_again(self) -> None:
        order = Order.objects.create(product=product())
        self.client.force_login(customer(is_staff=True, is_superuser=True))
        form = {"action": "publish_again", "_selected_action": [order.pk]}
        with handlers_in_place():
            answer = self.client.post(reverse("admin:orders_order_changelist"), form, follow=True)
        self.assertContains(answer, "1 orders were published again.")
        order.refresh_from_db()
        self.assertTrue(order.is_reserved)
