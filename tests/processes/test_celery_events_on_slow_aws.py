"""``celery events`` on an AWS that acts late: policies after a minute, subscriptions after fifteen seconds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_aws import SLOW
from processes.test_celery_events import monitor
from support.celery_workers import Stage, stage, wait_until
from support.loopback import as_aws
from support.standin import REGION, StandIn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
#: From when SNS delivers to the monitor's queue until the worker is heard. It sends an event every five seconds then.
HEARD_S = 15.0


@pytest.fixture
def slow_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn(SLOW) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", as_aws(aws.endpoint_url))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield aws


@pytest.fixture
def on_stage(slow_aws: StandIn, tmp_path: Path) -> Iterator[Stage]:
    with stage(f"hake:///shop?region={REGION}", tmp_path) as found:
        yield found


def subscribed_at(aws: StandIn, queue: str) -> float | None:
    """When a queue whose name matches was subscribed to its topic, by AWS's clock."""
    topics = list(aws.fake.topics.by_name.values())
    found = [one for topic in topics for one in list(topic.subscriptions.values()) if re.search(queue, one.endpoint)]
    return found[0].created_at if found else None


def test_monitor_that_starts_a_second_after_a_worker_hears_it(
    slow_aws: StandIn, on_stage: Stage, tmp_path: Path
) -> None:
    worker = on_stage.start("apps.controlled", "-P", "solo", "-E", name="watched", ready=False)
    wait_until(lambda: subscribed_at(slow_aws, "watched_test.*pidbox"), lambda: worker.log)
    on_stage.wait_until_ready(worker)
    started_at = slow_aws.clock()
    wait_until(lambda: slow_aws.clock() >= started_at + 1, "a second")
    with monitor(on_stage, tmp_path, "--dump") as dump:
        wait_until(lambda: subscribed_at(slow_aws, "celeryev"), lambda: dump.text)
        acts_at = (subscribed_at(slow_aws, "celeryev") or 0.0) + SLOW.subscriptions_act_s
        wait_until(lambda: slow_aws.clock() >= acts_at, "the subscription of the monitor to act")
        wait_until(lambda: dump.sees("watched@test"), lambda: dump.text, HEARD_S)
    # Nothing was lost because a policy was too new: the monitor's queue was created with it.
    monitors = {reason for queue, reason in slow_aws.fake.topics.lost if "celeryev" in queue}
    assert monitors <= {"the subscription does not act yet"}
    assert worker.errors() == []
