from django.db import transaction

from orders.models import Order
from orders.tasks import handle_order


@transaction.atomic
def place_order(item: str) -> Order:
    """Store an order and tell every group about it, once it is committed."""
    order = Order.objects.create(item=item)
    handle_order.delay_on_commit(order.pk)
    return order
