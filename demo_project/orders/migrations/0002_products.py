from decimal import Decimal

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

PRODUCTS = [
    ("Smoked hake", "12.50"),
    ("Storm lantern", "34.00"),
    ("Tarred rope", "9.80"),
    ("Brass compass", "58.00"),
    ("Wool jumper", "79.00"),
]


def stock_the_shelves(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    product = apps.get_model("orders", "Product")
    product.objects.bulk_create(product(name=name, price=Decimal(price), stock=1000) for name, price in PRODUCTS)


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]  # noqa: RUF012 - as Django has it

    operations = [migrations.RunPython(stock_the_shelves, migrations.RunPython.noop)]  # noqa: RUF012
