"""The events of the shop. A publisher does not know who listens; the handlers are in tasks.py."""

import kombu_hake

# One SNS topic. `orders.publish("placed", order_id=7)` is one request, however many groups listen.
orders = kombu_hake.Topic("orders")
