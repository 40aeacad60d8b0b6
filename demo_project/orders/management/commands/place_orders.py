from itertools import cycle, islice

from django.core.management.base import BaseCommand, CommandParser

from orders.models import Product
from orders.services import place_orders


class Command(BaseCommand):
    help = "Places a number of orders, for all products in turn."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)

    def handle(self, *args: object, count: int, **options: object) -> None:
        placed = place_orders(islice(cycle(Product.objects.order_by("pk")), count))
        self.stdout.write(f"{len(placed)} orders placed")
