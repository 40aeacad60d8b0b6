"""Plants each fault in what the demo's app declares, on the fake: ``python -m support.demo_faults``.

Runs in the folder of the demo's project, in a process of its own, because it sets up Django with the demo's settings.
Prints one JSON object: the fault to what is wrong, ``""`` for nothing.
"""

import json
import os
import traceback

from fakes import REGION, FakeClients, connected
from support.faults import FAULTS, Aws, FakeClient, Fault, see_and_mend

from kombu_hake import admin

#: The demo has one topic. Its groups stand for those of the shop that the faults are written for.
NAMES = {"stock": "inventory", "log": "fraud", "audit": "orders"}
GROUPS = ("analytics", "email", "fraud", "inventory")
#: Of options that the demo does not set.
LEFT_OUT = {"attribute by option altered", "key altered"}
#: Where the demo has more subscriptions, or no tags of its own.
OTHER_LINES = {
    "topic deleted": [
        "create topic __orders:", *(f"create subscription __orders -> __{group}:" for group in GROUPS)
    ],
    "tags removed": ["change tag __email: Tag hake:made-by is missing."],
}  # fmt: skip


def check(fault: Fault, lines: list[str]) -> None:
    from shop.celery import app

    fake = FakeClients()
    with connected(fake), admin.connect(app) as broker:
        aws = Aws(FakeClient(fake, "sqs"), FakeClient(fake, "sns"), "demo__", fake.clock.advance, NAMES)

        def apply() -> list[str]:
            done = broker.apply()
            assert (done.failures, done.remaining) == ((), admin.Plan())
            return texts(done.changes)

        assert apply()
        expected = [line.partition(", but is declared")[0] for line in lines]
        see_and_mend(aws, fault, lambda: texts(broker.plan().changes), apply, expected)


def texts(changes: tuple[admin.Change, ...]) -> list[str]:
    return [f"{one.action} {one.what} {one.name}: {one.reason}" for one in changes]


def main() -> None:
    os.environ["SHOP_BROKER_URL"] = f"hake://localhost:1/demo?region={REGION}"
    os.environ["SHOP_DEBUG"] = "1"
    found = {}
    for name, fault in FAULTS.items():
        if name in LEFT_OUT:
            continue
        try:
            check(fault, OTHER_LINES.get(name, fault.lines))
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
