"""`hake check` of the buckets of large messages."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from fakes import REGION, FakeClients, connected
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake import Topic
from kombu_hake.admin import CheckReport, connect
from kombu_hake.admin.check.stores import _days
from kombu_hake.amqp import lifecycle_rules, parse_store
from kombu_hake.exceptions import BrokerUnavailable, TopologyError

URL = f"hake://localhost:1/ns?region={REGION}"
STORE = parse_store("s3://shop-payloads/prod")
ARN = "arn:aws:s3:::shop-payloads"


def shop(**options: Any) -> Celery:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.broker_transport_options = {"large_messages": str(STORE), **options}
    return app


@pytest.fixture
def fake() -> FakeClients:
    """With a bucket as the documentation asks for."""
    fake = FakeClients()
    fake.objects.buckets.add(STORE.bucket)
    fake.objects.rules[STORE.bucket] = lifecycle_rules(STORE)
    fake.objects.region = REGION
    return fake


def report(fake: FakeClients, app: Celery | None = None, **options: Any) -> CheckReport:
    app = app or shop()
    with connected(fake):
        app.finalize()
        with app.connection_for_write() as connection:
            for queue in app.amqp.queues.values():
                queue(connection.default_channel).declare()
        with connect(app, offline=True) as broker:
            return broker.check(**options)


def found(fake: FakeClients, **options: Any) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in report(fake, **options).findings]


def test_a_sound_bucket_has_no_finding(fake: FakeClients) -> None:
    assert found(fake) == []
    fake.objects.objects[STORE.bucket, "prod/q/x"] = b"payload"
    assert found(fake) == []
    assert not fake.objects.written


def test_without_large_messages_s3_is_not_asked() -> None:
    fake = FakeClients()
    app = Celery("shop", broker=URL, set_as_current=False)
    assert report(fake, app).findings == ()
    assert not {"find_bucket", "read_byte", "lifecycle_rules"} & {operation for operation, _ in fake.calls}


FAULTS: dict[str, tuple[Callable[[FakeClients], object], list[tuple[str, str]]]] = {
    "missing": (lambda fake: fake.objects.buckets.clear(), [("bucket-missing", "error")]),
    "in another region": (
        lambda fake: setattr(fake.objects, "region", "ap-south-1"), [("bucket-elsewhere", "info")]
    ),
    "no rules": (lambda fake: fake.objects.rules.clear(), [("lifecycle-missing", "warning")]),
    "one rule": (lambda fake: fake.objects.rules[STORE.bucket].pop(), [("lifecycle-missing", "warning")]),
    "a rule of three days": (
        lambda fake: fake.objects.rules[STORE.bucket].append(
            {"Status": "Enabled", "Filter": {"Prefix": "prod/t"}, "Expiration": {"Days": 3}}
        ),
        [("lifecycle-short", "warning")],
    ),
    "unreachable": (
        lambda fake: fake.fail("find_bucket", BrokerUnavailable("no route")), [("bucket-unreachable", "error")]
    ),
    "refused": (
        lambda fake: fake.fail("find_bucket", TopologyError("PermanentRedirect")), [("bucket-unreachable", "error")]
    ),
    "rules fail": (
        lambda fake: fake.fail("lifecycle_rules", BrokerUnavailable("SlowDown")), [("cannot-check", "info")]
    ),
    "rules denied": (lambda fake: fake.deny("s3:GetLifecycleConfiguration"), [("cannot-check", "info")]),
    "listing denied": (lambda fake: fake.deny("s3:ListBucket"), [("cannot-check", "info")]),
    # Which is what S3 says of an object that does not exist, too.
    "reading denied": (lambda fake: fake.deny("s3:GetObject"), []),
    "everything denied": (lambda fake: fake.deny("s3:*"), [("cannot-check", "info")] * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_nothing_else(name: str, fake: FakeClients) -> None:
    plant, expected = FAULTS[name]
    plant(fake)
    assert found(fake) == expected


def test_an_object_that_may_not_be_read_shows_a_missing_right(fake: FakeClients) -> None:
    fake.objects.objects[STORE.bucket, "prod/q/x"] = b"payload"
    fake.deny("s3:GetObject")
    [finding] = report(fake).findings
    assert (finding.code, finding.where) == ("right-missing", f"{ARN}/prod/*")
    assert found(fake, roles=["producer"]) == []


@pytest.mark.parametrize(
    ("denied", "has_object", "verdict"),
    [((), False, "allowed"), ((), True, "allowed"), (("s3:GetObject",), True, "denied"),
     (("s3:GetObject",), False, "unknown"), (("s3:ListBucket", "s3:GetObject"), True, "unknown")],
)  # fmt: skip
def test_the_right_to_read(fake: FakeClients, denied: tuple[str, ...], has_object: bool, verdict: str) -> None:
    if has_object:
        fake.objects.objects[STORE.bucket, "prod/t/x"] = b"payload"
    fake.deny(*denied)
    rights = {right.action: right for right in report(fake, roles=["consumer"]).rights if ":s3:" in right.resource}
    assert set(rights) == {"s3:PutObject", "s3:AbortMultipartUpload", "s3:GetObject", "s3:DeleteObject"}
    assert rights["s3:GetObject"].verdict == verdict
    assert rights["s3:DeleteObject"].verdict == "unknown"


def test_a_simulation_tells_the_right_to_write(fake: FakeClients) -> None:
    fake.simulated = {"s3:PutObject"}
    [finding] = report(fake).findings
    assert finding.code == "right-missing"
    assert "s3:PutObject" in finding.what


def test_the_bucket_of_a_topic_is_looked_at(fake: FakeClients) -> None:
    app = shop()
    orders = Topic("films", app=app, large_messages="s3://shop-films")
    fake.objects.rules["shop-films"] = []
    with_topic = report(fake, app).findings
    assert {(finding.code, finding.where) for finding in with_topic} == {
        ("bucket-missing", "s3://shop-films"), ("exchange-reaches-nobody", with_topic[-1].where)
    }  # fmt: skip
    assert orders.name in with_topic[-1].where


def test_the_remedy_names_the_rules_that_are_lacking(fake: FakeClients) -> None:
    fake.objects.rules[STORE.bucket].pop(0)
    [finding] = report(fake).findings
    assert '"Prefix": "prod/q/"' in finding.remedy
    assert "prod/t/" not in finding.remedy


# --- rules


def rule(days: object = 30, status: str = "Enabled", **more: Any) -> dict[str, Any]:
    return {"Status": status, "Expiration": {"Days": days}, **more}


@pytest.mark.parametrize(
    ("rules", "days"),
    [
        ([], None),
        ([rule(Filter={"Prefix": "prod/q/"})], 30),
        ([rule(Filter={"Prefix": "prod"})], 30),
        ([rule(Filter={"Prefix": ""})], 30),
        ([rule(Filter={})], 30),
        ([rule(Prefix="prod/")], 30),
        ([rule(Prefix="")], 30),
        ([rule(Filter={"And": {"Prefix": "prod/"}})], 30),
        ([rule(Filter={"Prefix": "prod/"}), rule(7, Filter={"Prefix": "prod/q/"})], 7),
        ([rule(Filter={"Prefix": "prod/q/x"})], None),
        ([rule(Filter={"Prefix": "test/"})], None),
        ([rule(status="Disabled", Filter={"Prefix": "prod/"})], None),
        ([rule(Filter={"Tag": {"Key": "a", "Value": "b"}})], None),
        ([rule(Filter={"And": {"Prefix": "prod/", "ObjectSizeGreaterThan": 1}})], None),
        ([{"Status": "Enabled", "Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}}], None),
        ([{"Status": "Enabled", "Filter": {}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2}}], None),
    ],
)
def test_after_how_many_days_rules_delete(rules: list[dict[str, Any]], days: int | None) -> None:
    assert _days(tuple(rules), "prod/q/") == days


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["Prefix", "And", "Days", "Status", "Filter", "Expiration"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from(["Status", "Filter", "Prefix", "Expiration"]), _VALUES), max_size=2))
def test_any_rules_are_judged(rules: list[dict[str, Any]]) -> None:
    days = _days(tuple(rules), "prod/q/")
    assert days is None or days > 0
