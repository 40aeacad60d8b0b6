"""What the fault campaign says of its ledgers: what is lost, and the reason of each duplicate."""

from pathlib import Path
from typing import Any

import pytest
from campaign.journal import DONE, REFUSED, UNANSWERED, Receipt
from campaign.ledger import UNEXPLAINED, Kill, Verdict, expected_of, judge, read


def run(number: int, at: float, *, group: str = "email", **more: Any) -> dict[str, Any]:
    facts = {"id": f"task{number}", "message": f"m{number}", "receives": 1, "retries": 0, "worker": "w", "pid": 7}
    return {"number": number, "group": group, "at": at, **facts, **more}


def judged(runs: list[dict[str, Any]], *receipts: Receipt, kills: list[Kill] | None = None, **more: Any) -> Verdict:
    published = more.pop("published", [])
    return judge({"email": [1]}, runs, published, kills or [], lambda message: list(receipts), **more)


def reasons(verdict: Verdict) -> list[str]:
    return [reason for reason, count in verdict.duplicates.items() if count]


def receipt(receives: int, at: float, *settles: tuple[str, str, float], is_copy: bool = False) -> Receipt:
    return Receipt("m1", receives, at, is_copy, list(settles))


def test_what_a_group_has_not_run_is_lost() -> None:
    verdict = judge({"email": [1, 2], "stock": [1]}, [run(1, 5.0)], [], [], lambda message: [])
    assert verdict.lost == {"email": [2], "stock": [1]}
    assert not verdict.is_good


def test_what_ran_once_is_no_duplicate() -> None:
    verdict = judged([run(1, 5.0), run(1, 5.0, group="stock")])
    assert verdict.is_good
    assert reasons(verdict) == []


@pytest.mark.parametrize(
    ("receipts", "kills", "reason"),
    [
        ([receipt(1, 1.0, ("ack", REFUSED, 2.0)), receipt(2, 9.0)], [], "its ack was lost"),
        ([receipt(1, 1.0, ("ack", UNANSWERED, 2.0)), receipt(2, 9.0)], [], "its ack was lost"),
        ([receipt(1, 1.0), receipt(2, 9.0)], [Kill("w", frozenset([1, 7]), 2.0, True)], "its worker was killed"),
        ([receipt(1, 1.0), receipt(2, 9.0)], [Kill("w", frozenset([7]), 2.0, False)], "its pool process was killed"),
        ([receipt(1, 1.0, ("ack", DONE, 11.0)), receipt(2, 9.0)], [], "its lease ran out before its ack"),
        (
            [receipt(1, 1.0, ("ack", UNANSWERED, 2.0)), receipt(2, 9.0)],
            [Kill("w", frozenset([7]), 2.0, True)],
            "its worker was killed",
        ),
        ([receipt(1, 1.0), receipt(2, 1.5, is_copy=True)], [], "delivered twice"),
        # What is no reason: somebody else was killed, before or long after; the ack was answered.
        ([receipt(1, 1.0), receipt(2, 9.0)], [Kill("x", frozenset([1, 7]), 2.0, True)], UNEXPLAINED),
        ([receipt(1, 1.0), receipt(2, 9.0)], [Kill("w", frozenset([8]), 2.0, False)], UNEXPLAINED),
        ([receipt(1, 1.0), receipt(2, 9.0)], [Kill("w", frozenset([7]), 1.0, True)], UNEXPLAINED),
        ([receipt(1, 1.0), receipt(2, 99.0)], [Kill("w", frozenset([7]), 60.0, True)], UNEXPLAINED),
        ([receipt(1, 1.0, ("ack", REFUSED, 2.0), ("ack", DONE, 3.0)), receipt(2, 9.0)], [], UNEXPLAINED),
        ([receipt(1, 1.0)], [], UNEXPLAINED),
    ],
)
def test_a_message_that_ran_twice_has_a_reason_or_none(receipts: list[Receipt], kills: list[Kill], reason: str) -> None:
    verdict = judged([run(1, 1.5), run(1, 10.0, receives=2)], *receipts, kills=kills)
    assert reasons(verdict) == [reason]
    assert verdict.is_good == (reason != UNEXPLAINED)


def test_a_lost_lease_is_a_reason_if_the_log_tells_it() -> None:
    logs = "ERROR/MainProcess] Lost the lease of task record[task1] from queue email (its ack failed): it will be …"
    runs = [run(1, 1.5), run(1, 10.0, receives=2)]
    assert reasons(judged(runs, receipt(1, 1.0), receipt(2, 9.0), logs=logs)) == ["its lease was lost, as the log says"]


def test_two_messages_of_one_publish_are_explained_only_where_answers_are_lost() -> None:
    runs = [run(1, 1.0), run(1, 2.0, message="another")]
    assert reasons(judged(runs)) == ["publish tried again, its answer was lost"]
    assert reasons(judged(runs, loses_answers=False)) == [UNEXPLAINED]
    assert reasons(judged(runs, loses_answers=False, unheard={"another"})) == [UNEXPLAINED]
    assert reasons(judged(runs, loses_answers=False, unheard={"task1"})) == ["publish tried again, its answer was lost"]


def test_two_publishes_are_explained_only_if_the_publisher_had_an_error() -> None:
    runs = [run(1, 1.0), run(1, 2.0, id="another", message="another")]
    assert reasons(judged(runs)) == [UNEXPLAINED]
    assert reasons(judged(runs, published=[{"number": 1, "error": "x"}])) == ["published again after an error"]


def test_only_what_was_accepted_is_expected() -> None:
    published = [
        {"number": 1, "groups": ["email", "stock"], "error": None},
        {"number": 2, "groups": ["email"], "error": "refused"},
        {"number": 2, "groups": ["email"], "error": None},
        {"number": 3, "groups": ["stock"], "error": "refused"},
    ]
    assert expected_of(published) == {"email": {1, 2}, "stock": {1}}


def test_a_line_that_is_half_written_is_not_read(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    (tmp_path / "runs").write_text('{"number": 1}\n{"num')
    assert read(tmp_path / "runs") == [{"number": 1}]
