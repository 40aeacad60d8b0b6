"""``make aws`` as a program, on stand-ins of this machine: what it refuses, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aws_leg import plan
from aws_leg.account import Account
from support.emulators import ROOT, Emulator
from support.pages import blocks
from support.standin import RemoteStandIn, StandIn

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
NO_CONSENT, NOT_READY = 3, 2
#: Long enough for a machine that does other things too.
PATIENCE_S = 60.0


def environment(**variables: str) -> dict[str, str]:
    """Without what the developer has set up, which this process has removed already."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return {**os.environ, **paths, **variables}


def leg(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    command, env = [sys.executable, "-m", "aws_leg", *arguments], environment(**variables)
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "aws_leg", *arguments],
        env=environment(**KEYS),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], object], program: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert program.poll() is None, program.communicate()[0]
        assert time.monotonic() < deadline, "the program did not get there"
        time.sleep(0.02)


def stop(program: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """Send a signal; all that was printed."""
    program.send_signal(number)
    return program.communicate(timeout=PATIENCE_S)[0]


def made(emulator: Emulator) -> list[str]:
    """Queues and topics of runs."""
    queues = emulator.client("sqs").list_queues(QueueNamePrefix="hakeleg-").get("QueueUrls", [])
    pages = emulator.client("sns").get_paginator("list_topics").paginate()
    topics = [topic["TopicArn"] for page in pages for topic in page["Topics"]]
    return [*queues, *(arn for arn in topics if ":hakeleg-" in arn)]


class TestRefuses:
    def test_without_consent_it_shows_the_plan_and_makes_nothing(self, moto: Emulator) -> None:
        done = leg("--endpoint-url", moto.endpoint_url, **KEYS)
        assert done.returncode == NO_CONSENT, done.stderr
        for what in ("account  ", "us-east-1", "hakeleg-", "queues", "topics", "USD", "make aws ARGS=--yes"):
            assert what in done.stdout
        assert made(moto) == []

    @pytest.mark.parametrize(
        ("left_out", "remedy"),
        [("AWS_ACCESS_KEY_ID", "set AWS_ACCESS_KEY_ID"), ("AWS_DEFAULT_REGION", "set AWS_DEFAULT_REGION")],
        ids=["credentials", "region"],
    )
    def test_without_credentials_or_region_it_says_what_to_do(self, left_out: str, remedy: str) -> None:
        given = {name: value for name, value in KEYS.items() if name != left_out}
        done = leg("--yes", "--endpoint-url", "http://127.0.0.1:9", **given)
        assert (done.returncode, done.stdout) == (NOT_READY, "")
        assert remedy in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_sts_refuses_is_told(self, refusing_sts: str) -> None:
        done = leg("--yes", "--endpoint-url", refusing_sts, **KEYS)
        assert done.returncode == NOT_READY
        assert "STS refuses the credentials: InvalidClientTokenId: The security token" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.fixture
    def refusing_sts(self) -> Iterator[str]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = (
                    b"<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>The security token included in "
                    b"the request is invalid.</Message></Error></ErrorResponse>"
                )
                self.send_response(403)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize("prefix", ["", "live", "hakeleg-", "hakeleg-*", "hakeleg-0123456789-x"])
    def test_only_what_a_run_has_made_can_be_removed(self, prefix: str) -> None:
        done = leg(f"--clean={prefix}", "--endpoint-url", "http://127.0.0.1:9", **KEYS)
        assert done.returncode == NOT_READY
        assert "give the prefix that the run has printed" in done.stderr


class TestLeavesNothing:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
    def test_after_a_signal(self, moto: Emulator, number: signal.Signals) -> None:
        program = start("--yes", "--part", "measure", "--endpoint-url", moto.endpoint_url)
        wait_until(lambda: made(moto), program)
        printed = stop(program, number)
        assert f"Stopped by {number.name}" in printed
        assert program.returncode == 128 + number
        assert made(moto) == []

    @pytest.mark.slow
    def test_after_sigterm_in_the_contract(self) -> None:
        """Whose tests run in processes of their own."""
        with StandIn() as aws:
            kept = aws.client("sqs").create_queue(QueueName="live__work")["QueueUrl"]
            program = start("--yes", "--part", "contract", "--processes", "1", "--endpoint-url", aws.endpoint_url)
            wait_until(lambda: aws.fake.count("create_queue") > 5, program)
            printed = stop(program, signal.SIGTERM)
            assert "Stopped by SIGTERM" in printed
            assert program.returncode == 128 + signal.SIGTERM
            assert [queue.url for queue in aws.fake.queues.by_name.values()] == [kept]
            assert list(aws.fake.topics.by_name) == []

    def test_what_a_killed_run_left_is_removed_by_its_prefix(self, moto: Emulator) -> None:
        program = start("--yes", "--part", "measure", "--endpoint-url", moto.endpoint_url)
        wait_until(lambda: made(moto), program)
        printed = stop(program, signal.SIGKILL)
        assert made(moto) != []
        (command,) = [line for line in printed.splitlines() if "make aws ARGS='--clean" in line]
        prefix = command.rpartition(" ")[2].rstrip("'")
        done = leg("--clean", prefix, "--endpoint-url", moto.endpoint_url, **KEYS)
        assert done.returncode == 0, done.stdout
        assert made(moto) == []

    @pytest.mark.slow
    def test_at_the_end_of_the_contract(self, moto: Emulator) -> None:
        """As on AWS: with pauses until changes act, and queues that are read until nothing comes."""
        arguments = (
            "--part",
            "contract",
            "--settle",
            "0.2",
            "--processes",
            "2",
            "-k",
            "TestFanout or TestFirstPublish",
        )
        done = leg("--yes", *arguments, "--endpoint-url", moto.endpoint_url, **KEYS)
        assert done.returncode == 0, done.stdout
        assert " 0 failed, 0 error, 0 skipped" in done.stdout
        assert made(moto) == []


#: Seconds rather than minutes; each row of the table that must show one.
LATE = {
    "attribute_reads_s": 2.0, "tag_reads_s": 3.0, "subscription_reads_s": 0.0, "attributes_act_s": 2.5,
    "filters_act_s": 4.0, "subscriptions_act_s": 1.5, "control_per_s": 0, "tags_per_s": 10, "topic_tags_per_s": 0,
}  # fmt: skip
ROWS = {
    "attribute of a queue is read": "attribute_reads_s",
    "tag of a queue is read": "tag_reads_s",
    "queue policy keeps messages out": "attributes_act_s",
    "queue policy lets messages in": "attributes_act_s",
    "new filter keeps messages out": "filters_act_s",
    "changed filter lets messages in": "filters_act_s",
    "new subscription delivers": "subscriptions_act_s",
}


@pytest.mark.slow
def test_measurements_find_how_late_a_slow_aws_is(tmp_path: Path) -> None:
    """And need no rights but those of the page."""
    file = tmp_path / "lags.json"
    with RemoteStandIn(LATE) as aws:
        done = leg(
            "--yes", "--part", "measure", "--longest", "60", "--json", str(file),
            "--endpoint-url", aws.endpoint_url, **KEYS,
        )  # fmt: skip
        calls = aws.control()["calls"]
        assert aws.control()["messages"] == {}
        assert aws.control()["topics"] == []
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    lags = {lag["what"]: lag for lag in found["lags"]}
    for what, timing in ROWS.items():
        assert lags[what]["missed"] == 0
        assert min(lags[what]["samples_s"]) >= LATE[timing], what
    assert set(lags) >= set(ROWS)
    for rate in found["tag_calls"]:
        assert rate["refused"] > 0
        assert 0 < rate["accepted_per_s"] <= LATE["tags_per_s"] + 1
    assert {operation.replace("_", "") for operation in calls} <= allowed()


@pytest.mark.release
@pytest.mark.timeout(900)
def test_whole_contract_passes_and_makes_what_the_plan_says() -> None:
    with RemoteStandIn() as aws:
        done = leg("--yes", "--part", "contract", "--endpoint-url", aws.endpoint_url, **KEYS)
        state = aws.control()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (state["messages"], state["topics"]) == ({}, [])
    calls = state["calls"]
    assert {operation.removesuffix("_batch").replace("_", "") for operation in calls} <= allowed()
    of_sns = {"publish", "publish_batch", "subscribe", "unsubscribe"}
    sns = sum(count for name, count in calls.items() if name in of_sns or "topic" in name or "subscription" in name)
    assert calls["create_queue"] <= plan.CONTRACT.queues
    assert calls["create_topic"] <= plan.CONTRACT.topics
    # Twice as many as here, and a tenth for messages that are billed as several requests.
    assert sns * 2.1 <= plan.CONTRACT.sns_requests
    assert (sum(calls.values()) - sns) * 2.1 <= plan.CONTRACT.sqs_requests


@pytest.mark.slow
def test_rights_of_the_page_are_enough(ministack: Emulator) -> None:
    """Where rights are enforced."""
    policy = rights()
    for statement in policy["Statement"]:  # ministack wants the batch forms by name
        batched = ("sns:Publish", "sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")
        statement["Action"] += [f"{action}Batch" for action in statement["Action"] if action in batched]
    iam = ministack.client("iam")
    iam.create_user(UserName="aws-leg")
    iam.put_user_policy(UserName="aws-leg", PolicyName="leg", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="aws-leg")["AccessKey"]
    keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    arguments = ("--longest", "5", "--processes", "2", "-k", "Fanout or FirstPublish or LeftBehind or Owners or Purge")
    done = leg("--yes", *arguments, "--endpoint-url", ministack.endpoint_url, **{**KEYS, **keys})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "user/aws-leg" in done.stdout
    assert made(ministack) == []


def rights() -> dict[str, Any]:
    """The policy in CONTRIBUTING.md."""
    (policy,) = [json.loads(block.code) for block in blocks(ROOT / "CONTRIBUTING.md", "json")]
    return policy


def allowed() -> set[str]:
    """Operations that the policy allows; STS needs no right."""
    actions = [action for statement in rights()["Statement"] for action in statement["Action"]]
    return {action.partition(":")[2].lower() for action in actions} | {"getcalleridentity"}


class TestConftest:
    """In processes of their own: what is removed, and what may be reached, is decided when tests start."""

    def python(self, code: str, **variables: str) -> str:
        command, env = [sys.executable, "-c", code], environment(**variables)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_credentials_of_the_environment_are_removed_all_the_same(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
        account = Account("hakeleg-0123456789", "eu-west-1", None, 0.0, (), os.getpid(), keys)
        code = "import os, conftest; print(os.environ.get('AWS_ACCESS_KEY_ID'), conftest.ACCOUNT)"
        assert self.python(code, AWS_ACCESS_KEY_ID="AKIAOTHER") == "None None"
        assert self.python(code, AWS_ACCESS_KEY_ID="AKIAOTHER", **account.handed_on()).startswith("AKIAEXAMPLE ")

    def test_hosts_of_the_leg_may_be_reached_and_no_others(self) -> None:
        """By audit events, without a connection."""
        code = """
import socket, sys
socket.getaddrinfo = lambda host, *rest, **options: [(2, 1, 6, "", ("203.0.113.7", 443))]
from support import loopback
loopback.install(["sqs.eu-west-1.amazonaws.com"])

def may(event, *args):
    try:
        sys.audit(event, *args)
    except loopback.OutsideLoopback:
        return "no"
    return "yes"

print(may("socket.connect", None, ("203.0.113.7", 443)))
socket.getaddrinfo("elsewhere.example", 443)
print(may("socket.connect", None, ("203.0.113.7", 443)))
print(may("socket.getaddrinfo", "sqs.eu-west-1.amazonaws.com", 443, 0, 0, 0))
socket.getaddrinfo("sqs.eu-west-1.amazonaws.com", 443)
print(may("socket.connect", None, ("203.0.113.7", 443)))
print(may("socket.connect", None, ("203.0.113.8", 443)))
print(may("socket.getaddrinfo", "elsewhere.example", 443, 0, 0, 0))
"""
        assert self.python(code).split() == ["no", "no", "yes", "yes", "no", "no"]
