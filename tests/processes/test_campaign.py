"""The fault campaign, the outages and the soak (``make campaign``, ``make outage``, ``make soak``), small ones."""

from pathlib import Path

import pytest
from campaign import kinds, outage, soak
from campaign.faults import KINDS
from support.emulators import Emulator

#: Faults that are noticed soon, so that a short outage is one.
SHORT = {"visibility_timeout": 5, "wait_time_seconds": 3, "read_timeout": 3, "connect_timeout": 2}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_under_faults_and_kills_and_each_duplicate_has_a_reason(moto: Emulator, tmp_path: Path) -> None:
    row = kinds.run_kind("mixed", moto, tmp_path, events=200, workers=1, kill_every_s=3.0, rate=40.0, visibility_s=3)
    assert row.verdict.is_good, f"{row.text()}\n{row.verdict.lost}\n{row.verdict.examples}"
    assert row.spoiled > 20
    assert row.kills > 1
    assert row.verdict.duplicates.total() > 0, "the faults had no effect"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_large_message_is_lost_and_no_object_is_deleted_too_early(moto: Emulator, tmp_path: Path) -> None:
    row = kinds.run_kind("s3", moto, tmp_path, events=60, workers=1, kill_every_s=8.0, rate=20.0, visibility_s=4)
    assert row.is_good, f"{row.text()}\n{row.verdict.lost}\n{row.verdict.examples}\n{row.deleted_early}"
    assert row.spoiled > 20
    assert row.deleted > 100


@pytest.mark.release
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_under_any_kind_of_fault(moto: Emulator, tmp_path: Path, kind: str) -> None:
    row = kinds.run_kind(kind, moto, tmp_path, events=500)
    assert row.is_good, f"{row.text()}\n{row.verdict.lost}\n{row.verdict.examples}"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_workers_go_on_after_a_black_hole(moto: Emulator, tmp_path: Path) -> None:
    found = outage.run("black-hole", 8.0, moto, tmp_path, options=SHORT, patience_s=60.0, quiet_s=3.0)
    assert found.is_good, f"{found.text()}\n{found.verdict.lost}\n{found.verdict.examples}"
    assert found.longest_publish_s > 3.0, "the publisher was not cut off"


@pytest.mark.release
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", outage.KINDS)
def test_workers_go_on_within_seconds_after_two_minutes_without_aws(moto: Emulator, tmp_path: Path, kind: str) -> None:
    found = outage.run(kind, 120.0, moto, tmp_path)
    assert found.is_good, f"{found.text()}\n{found.verdict.lost}\n{found.verdict.examples}"
    assert found.cpu_share < 0.1
    assert found.longest_publish_s < 120


@pytest.mark.release
@pytest.mark.timeout(900)
def test_nothing_grows_in_minutes_of_mixed_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--minutes", "4"]) == 0, capsys.readouterr().out
