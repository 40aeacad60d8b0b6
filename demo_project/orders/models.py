from django.conf import settings
from django.db import models


class Product(models.Model):
    """What the shop sells."""

    name = models.CharField(max_length=50)
    price = models.DecimalField(max_digits=6, decimal_places=2)
    stock = models.IntegerField()

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What a customer bought, and what the groups found out or did about it."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    customer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, related_name="orders", null=True, blank=True
    )
    placed_at = models.DateTimeField(auto_now_add=True)
    is_reserved = models.BooleanField(default=False)
    is_counted = models.BooleanField(default=False)
    risk = models.PositiveSmallIntegerField(null=True, blank=True)

    def __str__(self) -> str:
        return f"order {self.pk}"
