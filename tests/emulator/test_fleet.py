"""Fifty workers with thirty queues each, started at once where AWS takes thirty control-plane calls a second in all.

Prints the calls by action and how long it took: ``pytest -m release -s tests/emulator/test_fleet.py``.
"""

import os

import pytest
from support import fleet
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

WORKERS = int(os.environ.get("HAKE_FLEET_WORKERS", "50"))
QUEUES = int(os.environ.get("HAKE_FLEET_QUEUES", "30"))
CALLS_PER_S = 30
TIMEOUT_S = 1500


@pytest.mark.release
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("state", ["nothing there", "all there"])
@pytest.mark.parametrize("kind", fleet.KINDS)
def test_all_workers_of_a_fleet_become_ready(moto: Emulator, kind: str, state: str) -> None:
    aws = moto.in_namespace(f"fleet-{kind}-{state.partition(' ')[0]}")
    if state == "all there":
        fleet.start(aws.url(), workers=1, queues=QUEUES, kind=kind, timeout_s=TIMEOUT_S)
    with Proxy(moto.endpoint_url) as proxy:
        proxy.rules = [Rule("rate_limit", rate=CALLS_PER_S)]
        url = aws.url().replace(f":{moto.port}/", f":{proxy.endpoint_url.rpartition(':')[2]}/")
        found = fleet.start(url, workers=WORKERS, queues=QUEUES, kind=kind, timeout_s=TIMEOUT_S)
        stats = proxy.stats()
    calls = dict(sorted(stats["requests"].items()))
    ready = found["ready_s"]
    print(f"\n{WORKERS} x {QUEUES} queues, {kind}, {state}: first ready {ready[0]} s, last {ready[-1]} s")
    print(f"  {sum(calls.values())} calls, those that were throttled and repeated included: {calls}")
    assert not found["errors"]
    assert len(ready) == WORKERS
