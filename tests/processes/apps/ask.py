"""One of many that ask at the same time: ``python -m apps.ask 3`` pings three times, and prints who answered."""

import json
import sys
from contextlib import closing

from celery import Celery

from apps.notes import BROKER


def main() -> None:
    with closing(Celery(broker=BROKER, set_as_current=False)) as app:
        answers = [app.control.inspect().ping() or {} for _ in range(int(sys.argv[1]))]
    print(json.dumps([sorted(answer) for answer in answers]))


if __name__ == "__main__":
    main()
