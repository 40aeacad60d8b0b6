from itertools import cycle, islice

from django.core.management.base import BaseCommand, CommandParser

from orders.models import Order
from orders.services import place_order

ITEMS = ["teapot", "lantern", "notebook", "compass", "blanket"]


class Command(BaseCommand):
    help = "Places a number of orders."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)

    def handle(self, *args: object, count: int, **options: object) -> None:
        for item in islice(cycle(ITEMS), count):
            place_order(item)
        self.stdout.write(f"{Order.objects.count()} orders placed")
