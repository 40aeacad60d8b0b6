"""The shop's page. Everybody may look; placing an order needs a login."""

import logging

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from kombu.exceptions import OperationalError

from orders.forms import OrderForm
from orders.models import Order
from orders.services import place_order

logger = logging.getLogger(__name__)
SHOWN_ORDERS = 20


@require_safe
def storefront(request: HttpRequest) -> HttpResponse:
    return _page(request, OrderForm())


@login_required
@require_POST
def place(request: HttpRequest) -> HttpResponse:
    form = OrderForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=400)
    try:
        order = place_order(form.cleaned_data["product"], request.user)
    except OperationalError:
        logger.exception("An order is stored, but not published: publish it again in the admin")
        messages.warning(request, "Your order is stored. It may take longer than usual.")
    else:
        messages.success(request, f"Thank you. Your order has number {order.pk}.")
    return redirect("storefront")


def _page(request: HttpRequest, form: OrderForm, status: int = 200) -> HttpResponse:
    own = Order.objects.none()
    if request.user.is_authenticated:
        own = Order.objects.filter(customer=request.user).select_related("product").order_by("-pk")[:SHOWN_ORDERS]
    return render(request, "orders/storefront.html", {"form": form, "orders": own}, status=status)
