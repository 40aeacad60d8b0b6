"""A publisher that has declared nothing: ``python -m apps.publish orders.any handle 200``.

It knows the broker, the name of the exchange and the name of the task.
"""

import argparse
import json

from celery import Celery

from apps.notes import BROKER


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("--exchange", default="")
    parser.add_argument("--keys", nargs="*", default=["any.key"], help="one message each, the key is the argument")
    parser.add_argument("--count", type=int, help="as many messages instead, their number is the argument")
    parser.add_argument("--more", type=json.loads, default=[], help="JSON list of further arguments")
    options = parser.parse_args()
    app = Celery(broker=BROKER)
    if options.count:
        messages = [(options.keys[0], number) for number in range(options.count)]
    else:
        messages = [(key, key) for key in options.keys]
    for key, argument in messages:
        app.send_task(options.task, [argument, *options.more], exchange=options.exchange, routing_key=key)
    print(len(messages))


if __name__ == "__main__":
    main()
