"""The cost model agrees with what was measured, and with itself."""

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.pages import DOCS

from kombu_hake.cli.cost import FAIR_USD, MONTH_S, Load, price_usd, requests_a_month
from kombu_hake.cli.main import hake

#: Rates of docs/performance.md, a second: what the benchmark's workers handled while requests were counted.
BUSY = {"has_backlog": True, "remote_control": False}
MEASURED = {
    "requests a task, published one by one, prefetch multiplier 32": Load(640, prefetch=64, **BUSY),
    "the same, prefetch multiplier 4": Load(373, prefetch=8, **BUSY),
    "requests a task, published in batches": Load(640, prefetch=64, is_batched=True, **BUSY),
    "requests an event to 3 groups, in batches": Load(478, groups=3, prefetch=64, is_batched=True, **BUSY),
    "requests an event to 10 groups, in batches": Load(478, groups=10, prefetch=64, is_batched=True, **BUSY),
}


def measured(name: str) -> float:
    """Our column of the table of requests."""
    row = re.search(rf"^\| {re.escape(name)} \| ([\d.]+) \|", (DOCS / "performance.md").read_text(), re.MULTILINE)
    assert row is not None, name
    return float(row[1])


def each(load: Load) -> float:
    """Requests a message."""
    return sum(requests_a_month(load).values()) / (load.per_second * MONTH_S)


@pytest.mark.parametrize("name", MEASURED)
def test_the_model_agrees_with_the_benchmark(name: str) -> None:
    assert each(MEASURED[name]) == pytest.approx(measured(name), rel=0.05)


def test_the_price_agrees_with_the_benchmark() -> None:
    load = MEASURED["requests a task, published in batches"]
    assert price_usd(requests_a_month(load)) / (load.per_second * MONTH_S) * 1e6 == pytest.approx(
        measured("US dollars a million tasks, in batches"), rel=0.05
    )


def test_an_idle_queue_costs_its_long_polls() -> None:
    idle = requests_a_month(Load(remote_control=False))
    assert sum(idle.values()) / MONTH_S * 3600 == pytest.approx(measured("idle polls an hour and queue"))


def test_remote_control_is_one_more_idle_queue_for_each_worker_and_its_heartbeats() -> None:
    requests = requests_a_month(Load(workers=3))
    assert requests["sqs:ReceiveMessage, remote control"] == requests["sqs:ReceiveMessage, empty"]
    assert requests["sqs:TagQueue, remote control"] == pytest.approx(3 * 30 * MONTH_S / 3600)
    without = requests_a_month(Load(workers=3, remote_control=False))
    assert sum(without.values()) == requests["sqs:ReceiveMessage, empty"]
    assert requests["sns:GetSubscriptionAttributes, checks"] == 3 * MONTH_S / 300


def test_checks_of_bindings_are_two_requests_an_interval_for_each_bound_queue_of_a_worker() -> None:
    load = Load(groups=3, workers=4)  # each worker: its group's queue, and that of remote control
    for name in ("sqs:GetQueueAttributes, checks", "sns:GetSubscriptionAttributes, checks"):
        assert requests_a_month(load)[name] == pytest.approx(3 * 4 * 2 * MONTH_S / 300)
        assert requests_a_month(replace(load, check_bindings_s=0))[name] == 0
        assert requests_a_month(Load(remote_control=False))[name] == 0  # a queue without an exchange


def test_an_idle_worker_costs_what_was_counted() -> None:
    page = (DOCS / "remote-control.md").read_text()
    row = re.search(r"^\| \*\*default\*\*[^|]*\| ([\d,]+) \|", page, re.MULTILINE)
    assert row is not None
    assert sum(requests_a_month(Load()).values()) / MONTH_S * 3600 == pytest.approx(int(row[1]), rel=0.05)


def test_messages_that_come_one_at_a_time_take_three_requests_each() -> None:
    assert each(Load(0.1, remote_control=False)) == pytest.approx(3, rel=0.15)


def test_handlers_of_one_group_have_messages_of_their_own() -> None:
    one, two = (requests_a_month(Load(1, groups=1, handlers=number)) for number in (1, 2))
    assert "sqs:SendMessage to handlers" not in one
    assert two["sqs:SendMessage to handlers"] == MONTH_S  # two messages share a request
    assert two["sqs:ReceiveMessage"] > 2.5 * one["sqs:ReceiveMessage"]


def test_each_64_kib_is_billed() -> None:
    assert requests_a_month(Load(1, size_bytes=65 * 1024))["sqs:SendMessage"] == 2 * MONTH_S
    assert requests_a_month(Load(1, size_bytes=64 * 1024))["sqs:SendMessage"] == MONTH_S


def test_a_batch_holds_what_fits() -> None:
    alone, batched = (Load(1, groups=1, size_bytes=200 * 1024, is_batched=on) for on in (False, True))
    assert requests_a_month(batched)["sns:Publish"] == requests_a_month(alone)["sns:Publish"]


def test_a_held_message_is_renewed_at_half_of_its_visibility_timeout() -> None:
    assert requests_a_month(Load(0.001, held_s=59))["sqs:ChangeMessageVisibility"] == 0
    assert requests_a_month(Load(0.001, held_s=130))["sqs:ChangeMessageVisibility"] == pytest.approx(
        2 * 0.001 * MONTH_S, rel=0.01
    )


LOADS = st.builds(
    Load,
    per_second=st.floats(0, 10_000),
    groups=st.integers(0, 20),
    workers=st.integers(1, 50),
    handlers=st.integers(1, 5),
    prefetch=st.integers(1, 500),
    size_bytes=st.integers(1, 1_048_576),
    is_batched=st.booleans(),
    has_backlog=st.booleans(),
    held_s=st.floats(0, 40_000),
)


@given(LOADS)
def test_any_load_has_a_price(load: Load) -> None:
    requests = requests_a_month(load)
    assert all(count >= 0 for count in requests.values())
    assert price_usd(requests) >= 0


@given(LOADS.filter(lambda load: load.groups > 0))
def test_one_more_group_never_costs_less(load: Load) -> None:
    more = Load(**{**vars(load), "groups": load.groups + 1})
    assert sum(requests_a_month(more).values()) >= sum(requests_a_month(load).values())


def test_the_command_needs_no_app_and_prints_a_table() -> None:
    done = CliRunner().invoke(hake, ["cost", "50", "--groups", "3"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^sns:Publish +129,600,000 +64\.80$", done.output, re.MULTILINE)
    assert re.search(r"^together ", done.output, re.MULTILINE)


def test_tenants_cost_extra_where_messages_move() -> None:
    requests = requests_a_month(Load(per_second=10, groups=2))
    moved = sum(requests[name] for name in ("sqs:ReceiveMessage", "sqs:DeleteMessage"))
    assert price_usd(requests, fair_usd=FAIR_USD) - price_usd(requests) == pytest.approx(moved * FAIR_USD / 1e6)
    done = CliRunner().invoke(hake, ["cost", "10", "--groups", "2", "--tenants", "--json"])
    assert json.loads(done.output)["usd"] == pytest.approx(price_usd(requests, fair_usd=FAIR_USD), abs=0.01)


def test_the_command_names_each_price_that_it_used() -> None:
    done = CliRunner().invoke(hake, ["cost", "10", "--size", "5120", "--s3", "--tenants"])
    assert (
        "0.40 (SQS) and 0.50 USD (SNS) for a million, 0.10 more with tenants, 5.00 (PUT) and 0.40 (GET)" in done.output
    )


def test_the_command_takes_other_prices() -> None:
    def price(*options: str) -> float:
        done = CliRunner().invoke(hake, ["cost", "50", "--groups", "3", "--json", *options])
        return float(json.loads(done.stdout)["usd"])

    assert price("--sqs-price", "0.80", "--sns-price", "1.00") == pytest.approx(2 * price(), abs=0.02)


@pytest.mark.parametrize("wrong", [["-1"], ["1", "--groups", "-1"], ["1", "--workers", "0"], ["1", "--size", "2000"]])
def test_the_command_refuses_what_makes_no_sense(wrong: list[str]) -> None:
    assert CliRunner().invoke(hake, ["cost", *wrong]).exit_code == 1


PAGE = DOCS / "cost.md"
EXAMPLES = re.findall(
    r"^```sh\ncelery hake (cost [^\n]*)\n```\n\n<!-- output -->\n```text\n(.*?)^```$",
    PAGE.read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize(("command", "output"), EXAMPLES)
def test_examples_of_the_page_print_what_it_says(command: str, output: str) -> None:
    assert CliRunner().invoke(hake, command.split()).stdout == output


def test_a_message_in_s3_is_a_small_one_and_requests_to_s3() -> None:
    small = requests_a_month(Load(2, groups=3, handlers=2))
    large = requests_a_month(Load(2, groups=3, handlers=2, size_bytes=20 * 1024 * 1024, is_in_s3=True))
    assert {name: count for name, count in large.items() if not name.startswith("s3:")} == small
    assert large["s3:PutObject"] == 2 * MONTH_S * 5  # three parts, their begin and their end
    assert large["s3:GetObject"] == 2 * MONTH_S * 3 * 3 * 3
    assert price_usd({"s3:PutObject": 1e6, "s3:GetObject": 1e6}) == pytest.approx(5.4)


def test_what_sqs_does_not_take_needs_s3() -> None:
    refused = CliRunner().invoke(hake, ["cost", "2", "--size", "5120"])
    assert refused.exit_code == 1
    assert "--s3" in refused.output
    assert "s3:PutObject" in CliRunner().invoke(hake, ["cost", "2", "--size", "5120", "--s3"]).output
