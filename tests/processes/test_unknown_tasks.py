"""Tasks that the workers of a group have not registered."""

import pytest
from support.celery_workers import Stage

PUBLISH = ("-m", "apps.publish")
TO_ALL = ("--exchange", "orders", "--keys")


@pytest.mark.timeout(120)
def test_a_plain_app_says_once_that_it_does_not_know_a_task(on_stage: Stage) -> None:
    worker = on_stage.start("apps.groups", "-Q", "email", "-P", "threads", "-c", "1")
    on_stage.python(*PUBLISH, "of.others", *TO_ALL, "a", "b", "c")
    on_stage.python(*PUBLISH, "handle", *TO_ALL, "last")
    on_stage.runs.wait_for(1, number="last")
    worker.stop()
    assert worker.log.count("Group email receives task of.others, which its workers have not registered") == 1
    assert "Received unregistered task" not in worker.log
    assert "Traceback" not in worker.log
