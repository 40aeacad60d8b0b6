"""What can happen in the shop. Who wants to hear of it is in tasks.py, and is no concern of who publishes."""

import kombu_hake

# One SNS topic. `orders.publish("placed", order_id=7)` is one request, however many groups listen.
orders = kombu_hake.Topic("orders")
