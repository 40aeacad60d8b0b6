"""Fifty workers with thirty queues each, started at once where AWS rations calls.

On an emulator there are thirty control-plane calls a second in all; on the stand-in thirty of each action, and five a
second for tags of queues. Prints the calls by action and how long it took: ``pytest -m release -s
tests/emulator/test_fleet.py``.
"""

import os
from dataclasses import replace

import pytest
from fake_aws import QUICK, SLOW
from support import fleet
from support.emulators import Emulator
from support.loopback import as_aws
from support.proxy import Proxy
from support.proxy_rules import Rule
from support.standin import REGION, StandIn

WORKERS = int(os.environ.get("HAKE_FLEET_WORKERS", "50"))
QUEUES = int(os.environ.get("HAKE_FLEET_QUEUES", "30"))
CALLS_PER_S = 30
TIMEOUT_S = 1500
RATIONS = replace(
    QUICK, control_per_s=SLOW.control_per_s, tags_per_s=SLOW.tags_per_s, topic_tags_per_s=SLOW.topic_tags_per_s
)
SIZES = [
    pytest.param(4, 6, id="a few workers"),
    pytest.param(WORKERS, QUEUES, id="many workers", marks=pytest.mark.release),
]
TAG_CALLS = ("list_queue_tags", "tag_queue", "untag_queue")


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


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("state", ["nothing there", "all there"])
@pytest.mark.parametrize(("workers", "queues"), SIZES)
def test_fleet_reads_tags_of_new_queues_only(workers: int, queues: int, state: str) -> None:
    with StandIn() as aws:
        url = f"hake:///fleet?region={REGION}"
        environment = {
            "AWS_ENDPOINT_URL": as_aws(aws.endpoint_url),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        size = {"queues": queues, "kind": "bound", "timeout_s": TIMEOUT_S, "environment": environment}
        if state == "all there":
            fleet.start(url, workers=1, **size)
        aws.fake.use(RATIONS)
        aws.fake.calls.clear()
        with fleet.running(url, workers=workers, remote_control=True, **size) as found:
            calls = list(aws.fake.calls)
            counts, refused = aws.fake.counts(), dict(aws.fake.budgets.refused)
    ready = found["ready_s"]
    print(f"\n{workers} x {queues} bound queues, {state}: first ready {ready[0]} s, last {ready[-1]} s")
    print(f"  {sum(counts.values())} calls, {dict(sorted(counts.items()))}; of these throttled: {refused}")
    assert not found["errors"]
    assert len(ready) == workers
    assert counts["create_queue"] >= workers
    if state == "all there":
        tagged = {params["QueueUrl"] for operation, params in calls if operation in TAG_CALLS}
        assert tagged
        assert all("pidbox" in url for url in tagged)
        assert counts["create_queue"] - refused.get("create_queue", 0) == workers
        assert not counts["set_queue_attributes"]
