"""The shop for its staff."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from orders.models import Order, Product
from orders.services import publish_again


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("name", "price", "stock")
    search_fields = ("name",)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("id", "product", "customer", "placed_at", "is_reserved", "is_counted", "risk")
    list_filter = ("is_reserved", "is_counted", "product")
    list_select_related = ("product", "customer")
    readonly_fields = ("placed_at", "is_reserved", "is_counted", "risk")
    actions = ("publish_again",)

    @admin.action(description="Publish the selected orders again", permissions=["change"])
    def publish_again(self, request: HttpRequest, queryset: QuerySet[Order]) -> None:
        """For orders whose event was not published. Handlers are idempotent, so a second event is harmless."""
        count = publish_again(queryset)
        self.message_user(request, f"{count} orders were published again.")
