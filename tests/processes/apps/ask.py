"""One of many that ask at the same time: ``python -m apps.ask 3`` pings three times, and prints who answered.

A worker that shares two cores with everything else may be too slow for Celery's second: then it is asked again.
"""

import json
import sys
from contextlib import closing

from celery import Celery

from apps.notes import BROKER


def main() -> None:
    with closing(Celery(broker=BROKER, set_as_current=False)) as app:
        answers = [sorted(ping(app)) for _ in range(int(sys.argv[1]))]
    print(json.dumps(answers))


def ping(app: Celery) -> dict[str, object]:
    answer: dict[str, object] = {}
    for _ in range(4):
        answer = app.control.inspect().ping() or {}
        if len(answer) == 2:
            break
    return answer


if __name__ == "__main__":
    main()
