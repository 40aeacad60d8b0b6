"""``make aws`` without AWS: plan, hand-over, names, lags and table; removing and measuring on the fake."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aws_leg import plan, report
from aws_leg.account import VARIABLE, Account, is_on_loopback
from aws_leg.lags import STEADY, Lag, Probe, Rate, Seen, judged, new_since, pause_after_s
from aws_leg.measuring import ALL_NEW, SAMPLES, Measurements
from aws_leg.removal import Removed, belongs, is_run, new_run, remove
from botocore.exceptions import ClientError
from contract.broker import wait_for_changes
from fake_aws import QUICK, SLOW, AwsError, FakeClock, Timings
from fakes import FakeClients, make_settings
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.aws import Clients

SECRET = "wJalrXUtnFEMI/SECRET"
ACCOUNT = Account(
    run="hakeleg-0123456789",
    region="eu-west-1",
    endpoint_url=None,
    settle_s=3.0,
    hosts=("sqs.eu-west-1.amazonaws.com",),
    runner=1,
    keys={"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET},
)


class TestPlan:
    def shown(self, *parts: plan.Part) -> str:
        return plan.text(
            parts,
            run="hakeleg-0123456789",
            account_id="111122223333",
            arn="arn:aws:iam::111122223333:user/test",
            region="eu-west-1",
            endpoint_url=None,
        )

    def test_says_where_what_and_how_much(self) -> None:
        shown = self.shown(plan.MEASURING, plan.CONTRACT)
        for what in ("111122223333", "eu-west-1", "hakeleg-0123456789-", "300 queues", "180 topics", "0.40", "0.50"):
            assert what in shown

    def test_only_the_parts_that_run_are_counted(self) -> None:
        assert "contract suite" not in self.shown(plan.MEASURING)

    def test_price_is_that_of_all_requests(self) -> None:
        part = plan.Part("", queues=0, topics=0, sqs_requests=1_000_000, sns_requests=2_000_000, lasts="")
        assert plan.price_usd([part]) == pytest.approx(0.40 + 2 * 0.50)
        assert plan.price_usd([part, part]) == pytest.approx(2 * (0.40 + 2 * 0.50))

    def test_no_run_is_shown_as_free(self) -> None:
        assert "0.00 USD" not in self.shown(plan.Part("", 1, 1, 10, 10, ""))


class TestHandOver:
    def test_arrives_whole(self) -> None:
        assert Account.handed_over(ACCOUNT.handed_on()) == ACCOUNT

    def test_other_runs_have_no_account(self) -> None:
        assert Account.handed_over({"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE"}) is None

    def test_only_credentials_become_variables(self) -> None:
        environ: dict[str, str] = {}
        Account(**{**vars(ACCOUNT), "keys": {**ACCOUNT.keys, "AWS_ENDPOINT_URL": "http://elsewhere"}}).use(environ)
        assert environ == ACCOUNT.keys

    def test_secret_is_shown_nowhere(self) -> None:
        assert SECRET not in repr(ACCOUNT) + ACCOUNT.url("ns")

    def test_namespaces_are_those_of_the_run(self) -> None:
        account = ACCOUNT.in_namespace("ab12cd34")
        assert belongs(ACCOUNT.run, f"{account.namespace}__work")
        assert account.url(max_pollers=1) == "hake:///hakeleg-0123456789-ab12cd34?region=eu-west-1&max_pollers=1"

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://127.0.0.1:5000", True),
            ("http://localhost:4566", True),
            ("http://127.evil.example", False),
            ("https://sqs.eu-west-1.amazonaws.com", False),
            (None, False),
        ],
    )
    def test_loopback_is_known(self, url: str | None, expected: bool) -> None:
        assert is_on_loopback(url) is expected


class TestNames:
    def test_each_run_has_a_prefix_of_its_own(self) -> None:
        runs = {new_run() for _ in range(100)}
        assert len(runs) == 100
        assert all(map(is_run, runs))

    @given(st.text())
    def test_only_a_whole_prefix_is_one(self, text: str) -> None:
        assert not is_run(text) or (len(text) == len("hakeleg-0123456789") and text.startswith("hakeleg-"))

    @pytest.mark.parametrize("text", ["", "hakeleg-", "hakeleg", "hakeleg-012345678", "hakeleg-0123456789-", "live"])
    def test_less_than_a_prefix_removes_nothing(self, text: str) -> None:
        fake = FakeClients()
        fake.queues.create_queue(f"{text}-x" if text else "x")
        with pytest.raises(ValueError, match="not the prefix of a run"):
            remove(Boto(fake, "sqs"), Boto(fake, "sns"), text, quiet_s=0)
        assert len(fake.queues.by_name) == 1

    @given(st.text(alphabet="hakeleg-0123456789_", max_size=40))
    def test_names_of_others_do_not_belong(self, name: str) -> None:
        assert belongs("hakeleg-0123456789", name) is name.startswith("hakeleg-0123456789-")


class Boto:
    """The fake with the look of a boto3 client."""

    def __init__(self, fake: FakeClients, service: str) -> None:
        self._fake = fake
        self._service = service
        self.exceptions = type("exceptions", (), {"QueueDoesNotExist": ClientError})

    def __getattr__(self, operation: str) -> Callable[..., dict[str, Any]]:
        def call(**params: Any) -> dict[str, Any]:
            try:
                return self._fake.call(self._service, operation, params)
            except AwsError as exc:
                answer: Any = {"Error": {"Code": exc.code, "Message": exc.text}}
                raise ClientError(answer, operation) from exc

        return call

    def get_paginator(self, operation: str) -> Any:
        """With one page."""
        client = self

        class Paginator:
            def paginate(self, PaginationConfig: object = None, **params: Any) -> list[Any]:
                return [getattr(client, operation)(**params)]

        return Paginator()


class TestRemoval:
    RUN = "hakeleg-0123456789"

    @pytest.fixture
    def fake(self) -> FakeClients:
        fake = FakeClients()
        for name in (f"{self.RUN}-1__work", f"{self.RUN}-queue-0", "hakeleg-9876543210-1__work", "live__work"):
            fake.queues.create_queue(name)
            fake.topics.create_topic(name)
        return fake

    def test_takes_what_the_run_made_and_nothing_else(self, fake: FakeClients) -> None:
        assert remove(Boto(fake, "sqs"), Boto(fake, "sns"), self.RUN, quiet_s=0) == Removed(2, 2)
        kept = {"hakeleg-9876543210-1__work", "live__work"}
        assert set(fake.queues.by_name) == kept
        assert set(fake.topics.by_name) == kept

    def test_queue_that_is_listed_late_is_removed_too(self, fake: FakeClients) -> None:
        clock = FakeClock()
        fake.before("list_queues", lambda: None, lambda: fake.queues.create_queue(f"{self.RUN}-late"))
        removed = remove(Boto(fake, "sqs"), Boto(fake, "sns"), self.RUN, quiet_s=60, clock=clock, sleep=clock.advance)
        assert removed == Removed(3, 2)
        assert clock() - 1_000 >= 60

    def test_queue_that_is_gone_already_is_no_error(self, fake: FakeClients) -> None:
        fake.before("delete_queue", lambda: fake.queues.by_name.pop(f"{self.RUN}-1__work") and None)
        remove(Boto(fake, "sqs"), Boto(fake, "sns"), self.RUN, quiet_s=0)
        assert not [name for name in fake.queues.by_name if name.startswith(self.RUN)]


class TestSeen:
    def test_new_from_the_first_of_five(self) -> None:
        looks = [Seen(float(at), at >= 3) for at in range(3 + STEADY)]
        assert new_since(looks[:-1]) is None
        assert new_since(looks) == 3.0

    def test_an_old_answer_in_between_starts_again(self) -> None:
        states = [True, True, False, True, None, *[True] * STEADY]
        assert new_since([Seen(float(at), state) for at, state in enumerate(states)]) == 5.0

    @given(st.lists(st.sampled_from([True, False, None])))
    def test_never_new_where_what_follows_is_not(self, states: list[bool | None]) -> None:
        since = new_since([Seen(float(at), state) for at, state in enumerate(states)])
        if since is not None:
            assert states[int(since) : int(since) + STEADY] == [True] * STEADY

    @pytest.mark.parametrize(
        ("lets_in", "arrived", "young", "lost"), [(True, True, None, False), (False, False, None, True)]
    )
    def test_probe_that_may_still_arrive_says_nothing(
        self, lets_in: bool, arrived: bool, young: None, lost: bool
    ) -> None:
        probes = [Probe(1, 100.0), Probe(2, 101.0), Probe(3, 108.0)]
        seen = judged(probes, {2}, is_new_if_arrived=lets_in, now=110.0, patience_s=5.0)
        assert [look.is_new for look in seen] == [lost, arrived, young]

    def test_pauses_grow_with_what_has_passed(self) -> None:
        assert pause_after_s(0) == pause_after_s(5) < pause_after_s(100) < pause_after_s(1_000)


class TestTable:
    LAGS = (
        Lag("queue policy lets messages in", (1.0, 2.0, 9.0), 2, 180.0, 60.0),
        Lag("deleted subscription stops", (), 5, 180.0),
    )
    RATES = (Rate("list_queue_tags", (0.1, 0.2, 1.1, 1.2, 2.3), 7, 3.0, 5.0),)

    def test_has_median_worst_and_number(self) -> None:
        lines = report.as_table(self.LAGS, self.RATES).splitlines()
        assert lines[1].removeprefix("queue policy lets messages in").split() == (
            ["2.0", "9.0", "3", "60", "2", "more", "not", "within", "180", "s"]
        )
        assert "5 more not within 180 s" in lines[2]
        assert lines[-1].split() == ["list_queue_tags", "2", "12", "7", "5"]

    def test_no_refusal_is_no_limit(self) -> None:
        assert "3 or more" in report.as_table([], [Rate("tag_queue", (0.1, 0.2, 0.3), 0, 1.0)])

    def test_json_has_the_samples(self) -> None:
        found = json.loads(json.dumps(report.as_json({"region": "eu-west-1"}, self.LAGS, self.RATES)))
        assert found["region"] == "eu-west-1"
        assert found["lags"][0]["samples_s"] == [1.0, 2.0, 9.0]
        assert (found["lags"][1]["median_s"], found["lags"][1]["missed"]) == (None, 5)
        assert found["tag_calls"][0]["accepted_per_s"] == 2.0

    def test_rate_is_that_of_the_median_second(self) -> None:
        at = [*[0.01 * n for n in range(50)], *[1.0 + 0.1 * n for n in range(10)], *[2.0 + 0.1 * n for n in range(10)]]
        assert Rate("x", tuple(at), 1, 3.0).per_s == 10.0


class TestMeasuring:
    """On the fake, whose lags are known, with a clock that passes only in pauses."""

    def measured(self, timings: Timings) -> tuple[dict[str, Lag], FakeClients]:
        clock = FakeClock()
        fake = FakeClients(clock, timings=timings)
        measurements = Measurements(
            Boto(fake, "sqs"), Boto(fake, "sns"), "hakeleg-0123456789", clock=clock, sleep=clock.advance
        )
        return {lag.what: lag for lag in measurements.lags()}, fake

    def test_finds_the_lags_of_a_slow_aws(self) -> None:
        found, _ = self.measured(SLOW)
        expected = {
            ALL_NEW: SLOW.attributes_act_s,
            "attribute of a queue is read": SLOW.attribute_reads_s,
            "tag of a queue is read": SLOW.tag_reads_s,
            "new subscription delivers": SLOW.subscriptions_act_s,
            "queue policy keeps messages out": SLOW.attributes_act_s,
            "queue policy lets messages in": SLOW.attributes_act_s,
            "new filter keeps messages out": SLOW.filters_act_s,
            "changed filter lets messages in": SLOW.filters_act_s,
        }
        for what, lag_s in expected.items():
            lag = found[what]
            assert (len(lag.samples_s), lag.missed) == (SAMPLES, 0), what
            # One pause late at most: a twentieth of the time that has passed, and what five tag calls take.
            assert lag_s <= min(lag.samples_s), what
            assert max(lag.samples_s) <= lag_s * 1.06 + 3.5, what

    @pytest.mark.parametrize(
        ("late", "rows"),
        [
            ({"attribute_reads_s": 40.0}, {"attribute of a queue is read"}),
            ({"tag_reads_s": 40.0}, {"tag of a queue is read"}),
            (
                {"subscriptions_act_s": 40.0},
                {"new subscription delivers", "queue, policy and subscription, all new: first delivery"},
            ),
            ({"filters_act_s": 40.0}, {"new filter keeps messages out", "changed filter lets messages in"}),
        ],
        ids=["attributes", "tags", "subscriptions", "filters"],
    )
    def test_each_lag_is_found_in_its_own_row(self, late: dict[str, float], rows: set[str]) -> None:
        found, _ = self.measured(Timings(**late))
        assert {what for what, lag in found.items() if lag.worst_s is None or lag.worst_s >= 40.0} == rows

    def test_finds_none_where_there_are_none(self) -> None:
        found, _ = self.measured(QUICK)
        assert {what: lag.missed for what, lag in found.items() if lag.missed} == {}
        assert max(lag.worst_s or 0.0 for lag in found.values()) < 1.0
        assert {found[what].worst_s for what in found if what.endswith("is read")} == {0.0}

    def test_what_does_not_come_is_given_up(self) -> None:
        clock = FakeClock()
        fake = FakeClients(clock, timings=Timings(subscriptions_act_s=10_000.0))
        measurements = Measurements(
            Boto(fake, "sqs"), Boto(fake, "sns"), "hakeleg-0123456789", clock=clock, sleep=clock.advance, longest_s=30
        )
        lag = next(measurements.lags())
        assert (lag.samples_s, lag.missed, lag.limit_s) == ((), SAMPLES, 30)
        assert clock() - 1_000 < 40

    def test_makes_no_more_than_the_plan_says(self) -> None:
        _, fake = self.measured(SLOW)
        counts = fake.counts()
        sns = {"create_topic", "subscribe", "unsubscribe", "set_subscription_attributes", "publish"}
        # One queue, and three hundred tag calls each, are of the rates.
        assert counts["create_queue"] + 1 == plan.MEASURING.queues
        assert counts["create_topic"] == plan.MEASURING.topics
        assert sum(counts[name] for name in sns) <= plan.MEASURING.sns_requests
        assert counts.total() - sum(counts[name] for name in sns) + 600 <= plan.MEASURING.sqs_requests

    def test_names_start_with_the_prefix_of_the_run(self) -> None:
        _, fake = self.measured(QUICK)
        assert all(belongs("hakeleg-0123456789", name) for name in [*fake.queues.by_name, *fake.topics.by_name])


class TestWaiting:
    """The contract on AWS: what was declared acts late."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
        clock = FakeClock()
        for service in ("sqs", "sns"):
            monkeypatch.setattr(Clients, service, lambda self, operation, **params: {})
        monkeypatch.setattr("contract.broker.time", SimpleNamespace(monotonic=clock, sleep=clock.advance))
        wait_for_changes(monkeypatch, 20.0)
        return clock

    @pytest.mark.parametrize("publish", ["publish", "publish_batch"])
    @pytest.mark.parametrize(
        ("service", "change"), [("sqs", "set_queue_attributes"), ("sns", "subscribe"), ("sns", "unsubscribe")]
    )
    def test_publish_waits_until_a_change_acts(self, clock: FakeClock, service: str, change: str, publish: str) -> None:
        clients, started = Clients(make_settings()), clock()
        getattr(clients, service)(change)
        clock.advance(5.0)
        clients.sns(publish)
        assert clock() - started == 20.0
        clients.sns(publish)
        assert clock() - started == 20.0

    def test_nothing_waits_for_what_changes_no_topology(self, clock: FakeClock) -> None:
        clients, started = Clients(make_settings()), clock()
        clients.sqs("send_message")
        clients.sqs("get_queue_attributes")
        clients.sns("publish")
        assert clock() == started


def test_variable_of_the_hand_over_is_not_one_of_aws() -> None:
    """The tests' conftest removes those."""
    assert not VARIABLE.startswith("AWS_")
