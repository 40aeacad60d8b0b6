"""An order on its way through an SNS and an SQS of this test's own, to a real worker."""

import time
from io import StringIO

from celery.contrib.testing.worker import start_worker
from django.core.management import call_command
from django.test import TransactionTestCase

from kombu_hake.testing import embedded_aws
from orders.models import Order
from orders.tests.support import product
from shop.celery import app

GROUPS = ("email", "inventory", "analytics", "fraud")
PATIENCE_S = 30.0


class WorkerTests(TransactionTestCase):
    def test_an_order_reaches_the_workers(self) -> None:
        product()
        with embedded_aws() as aws:
            app.conf.broker_url = aws.url  # before the first message of this process: the app keeps its connections
            with start_worker(app, queues=GROUPS, pool="solo", perform_ping_check=False, shutdown_timeout=PATIENCE_S):
                call_command("place_orders", "2", stdout=StringIO())
                deadline = time.monotonic() + PATIENCE_S
                handled = Order.objects.filter(is_reserved=True, is_counted=True, risk__isnull=False)
                while handled.count() < 2 and time.monotonic() < deadline:
                    time.sleep(0.1)
        self.assertEqual(handled.count(), 2)
