"""Fuzzing: mutated messages, tags, policies, filters, URLs and answers at the package's own functions.

Run it in ``tests/``: ``python -m hostile.fuzz --examples 100000``, or ``--target urls --only 4711`` for one case.

A case is made from the name of its target, the seed and its number alone, so it can be made again. It may raise nothing
but the documented errors (``kombu_hake.exceptions``, and kombu's for bodies that can't be decoded), run no code, and
take a second of CPU at most. What takes longer than :data:`_HANG_S` ends the process; ``test_fuzz.py`` reports it then.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from celery import Celery
from fakes import FakeClients, connected, make_settings
from kombu.exceptions import KombuError

import kombu_hake
from hostile.corpus import corpus
from hostile.mutations import legal, odd, odd_text, spoilt, spoilt_text, words
from kombu_hake.admin import dead_letters
from kombu_hake.amqp import bindings, naming, ownership, policy, routing
from kombu_hake.aws.clients import Clients
from kombu_hake.aws.clock import AwsClock
from kombu_hake.config import settings
from kombu_hake.exceptions import HakeError
from kombu_hake.groups import worker as group_worker

__all__ = ["TARGETS"]

MAX_CPU_S = 1.0
_HANG_S = 10.0
_QUEUE = "email"
_SECRET = "s3cr3t-of-the-url"

#: Makes the case of a ``Random``, and tries it.
Target = Callable[[Random], None]


# --- messages -----------------------------------------------------------------------------------------------------


#: Commands that bodies have run; mutated ones go to no shell.
_executed: list[str] = []


def _take_over_system() -> None:
    """Have ``os.system`` note the command and do nothing."""
    import posix

    corpus()  # whose pickles name the real one
    os.system = posix.system = _executed.append  # type: ignore[assignment]


class _Group:
    """A group's queue in a fake AWS, and a worker's consumer as far as it matters."""

    def __init__(self, stack: ExitStack) -> None:
        self.fake = FakeClients()
        self.connection = stack.enter_context(connected(self.fake))
        self.channel = self.connection.default_channel
        app = Celery("fuzz", broker="hake://localhost:1", set_as_current=False)
        orders = kombu_hake.Topic("orders", app=app)
        orders.on("paid", "placed", "#", group=_QUEUE, as_mapping=True, name="mapped")(_mapped)
        orders.on("placed", group=_QUEUE, name="keywords")(_keywords)
        app.finalize()
        group_worker._prepare_handlers(app)
        app.amqp.queues[_QUEUE](self.channel).declare()
        consumer = SimpleNamespace(
            connection_errors=(),
            controller=SimpleNamespace(state=SimpleNamespace(revoked=set())),
            strategies=dict.fromkeys(app.tasks, lambda message, *_: _handle(message)),
        )
        strategy = group_worker.event_strategy(None, app, consumer)

        def receive(message: Any) -> None:
            if message.headers.get("task") == "kombu_hake.event":
                strategy(message, None, message.ack_log_error, message.reject_log_error, [])
            else:
                _handle(message)

        self.on_message = group_worker._task_handler(app, lambda: receive)
        self.url = self.fake.sqs("get_queue_url", QueueName=_QUEUE)["QueueUrl"]

    def try_one(self, text: str, attributes: dict[str, str]) -> None:
        given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        try:
            self.fake.sqs("send_message", QueueUrl=self.url, MessageBody=text, MessageAttributes=given)
        except HakeError:
            return  # AWS would not have it either
        try:
            message = self.channel.basic_get(_QUEUE)
            if message is not None:
                self.on_message(message)
                if not message.acknowledged:
                    message.reject()
        finally:
            for name in (_QUEUE, f"{_QUEUE}-dead"):
                self.fake.queues.queue(name).messages.clear()
            self.fake.calls.clear()


def _mapped(_event: object) -> None:
    """A handler."""


def _keywords(**_event: object) -> None:
    """Another one."""


def _handle(message: Any) -> None:
    """What Celery does with a message that it knows the task of, as far as it is not Celery's own."""
    message.payload  # noqa: B018
    message.ack()


def _messages(stack: ExitStack) -> Target:
    _take_over_system()
    group = _Group(stack)
    texts = [one for one in corpus() if len(one.text) < 5_000 and "bomb" not in one.name]
    parsed = [(found, one) for one in texts if isinstance(found := _parsed(one.text), dict)]

    def target(random: Random) -> None:
        if random.random() < 0.8:
            document, one = random.choice(parsed)
            text = json.dumps(spoilt(random, document))
        else:
            one = random.choice(texts)
            text = legal(spoilt_text(random, one.text))
        keeps = random.random() < 0.5
        group.try_one(text, {name: value if keeps else _attribute(random) for name, value in one.attributes.items()})

    return target


def _attribute(random: Random) -> str:
    text = odd_text(random) if random.random() < 0.5 else spoilt_text(random, "order.placed%2E")
    return "".join(c for c in text if c.isprintable())[:500] or "%"


def _letters(_stack: ExitStack) -> Target:
    """Dead letters, as operators look at them."""
    texts = [one for one in corpus() if len(one.text) < 5_000 and isinstance(_parsed(one.text), dict)]

    def target(random: Random) -> None:
        raw = {
            "Body": json.dumps(spoilt(random, json.loads(random.choice(texts).text))),
            "MessageId": "1",
            "ReceiptHandle": "x",
            "Attributes": {"SentTimestamp": "1", "ApproximateReceiveCount": "1"},
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": _attribute(random)}
                for name in ("hake-death-task", "hake-death-reason", "hake-death-exception", "hake-death-queue", "rk")
            },
        }
        letter = dead_letters.read(_QUEUE, raw, 5.0)
        json.dumps(letter.as_dict())
        wanted = dead_letters.Selection(task="a*", exception="Error", older_than_s=1.0, ids=("1",))
        wanted.matches(letter)
        dead_letters.revived(letter, is_fifo=random.random() < 0.5)

    return target


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- tags, policies, filters --------------------------------------------------------------------------------------


def _tags(_stack: ExitStack) -> Target:
    def one(random: Random) -> dict[str, str]:
        choice = random.randrange(6)
        if choice == 0:
            binding = bindings.Binding("orders", "topic", words(random), (("a", random.choice([1, "x", True, None])),))
            return bindings.to_tags(binding)
        if choice == 1:  # its digest fits, so that only the text can be wrong
            text = spoilt_text(random, "topic orders order.=2E=00 name:i:5 x:f:1e5 y:b:1 z:s:=FF")
            return {f"hake:b:{_digest(text)}": text}
        if choice == 2:
            text = spoilt_text(random, "a b=2E all hostile.good =ED=A0=80")
            return {f"hake:t:{_digest(text)}": text}
        if choice == 3:
            return {f"hake:b:{_digest('x')}:{odd_text(random)[:9]}:{random.randrange(5)}": odd_text(random)[:256]}
        if choice == 4:
            kinds = ("exclusive", "auto-delete expires=86400", "expires=99999999999", "no")
            return {"hake:temporary": spoilt_text(random, random.choice(kinds)), "hake:used": odd_text(random)[:99]}
        return {f"hake:user:{random.randrange(9)}": spoilt_text(random, "1795401200 600 left web-1/4711")}

    def target(random: Random) -> None:
        found: dict[str, str] = {"hake:max-priority": odd_text(random)[:256], "hake:namespace": odd_text(random)[:99]}
        for _ in range(random.randrange(6)):
            found.update(one(random))
        # AWS keeps tags of letters, digits and some punctuation.
        found = {name: "".join(c for c in text if c.isprintable()) for name, text in found.items()}
        bound = bindings.from_tags(found)
        for binding in bound.bindings:
            routing.matches(binding, words(random), {"a": odd(random)})
        ownership_found = ownership.read(found)
        if ownership_found is not None:
            ownership_found.due_s()
            ownership_found.live_users(1.0)
            ownership_found.limit_s()
            ownership.room_for(found, 1.0, ownership_found, 50)

    return target


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _policies(_stack: ExitStack) -> Target:
    queue, topic = "arn:aws:sqs:eu-west-1:111122223333:dev__email", "arn:aws:sns:eu-west-1:111122223333:dev__orders"
    usual = json.loads(policy.queue_policy(None, queue, [topic]) or "{}")
    usual["Statement"] += [
        {"Sid": "Mine", "Effect": "Deny", "Principal": {"AWS": ["*"]}, "Action": ["sqs:*", "SNS:?"], "Resource": "*"},
        {"Effect": "Allow", "Principal": "*", "NotAction": "sqs:SendMessage", "Resource": [queue],
         "Condition": {"StringLike": {"aws:SourceArn": "a*" * 20 + "b"}, "Bool": {"aws:SecureTransport": True}}},
    ]  # fmt: skip

    def target(random: Random) -> None:
        text = json.dumps(spoilt(random, usual))
        if random.random() < 0.2:
            text = spoilt_text(random, text)
        policy.allows(text, queue, topic)
        for make in (
            lambda: policy.queue_policy(text, queue, [topic]),
            lambda: policy.queue_policy(text, queue, []),
            lambda: policy.namespace_policy(text, queue, "arn:aws:sns:eu-west-1:111122223333:dev__*"),
        ):
            try:
                make()
            except HakeError:
                continue

    return target


def _filters(_stack: ExitStack) -> Target:
    stars = {"wildcard": "a*" * 40 + "b"}
    usual = {
        "rk": ["paid", {"prefix": "order."}, {"suffix": ".x"}, stars, {"anything-but": ["a"]}, {"exists": True}],
        "words": [{"wildcard": "*.a.*"}, {"equals-ignore-case": "A"}, {"numeric": [">", 5]}],
        "$or": [{"rk": ["a"]}, {"tail": [{"cidr": "10.0.0.0/8"}]}],
        "hake-priority": ["5"], "hake-task": [{"anything-but": {"prefix": "s:"}}],
    }  # fmt: skip

    def target(random: Random) -> None:
        text = json.dumps(spoilt(random, usual))
        if random.random() < 0.2:
            text = spoilt_text(random, text)
        kinds: tuple[bindings.ExchangeType, ...] = ("topic", "direct", "fanout")
        wanted = [bindings.Binding("orders", random.choice(kinds), words(random)) for _ in range(random.randint(1, 4))]
        wanted.append(bindings.Binding("orders", "direct", "a" * random.choice((1, 60, 250))))
        routing.without_priorities(text)
        made = routing.compile_filter(wanted)
        routing.filter_json(made)
        for binding in wanted:
            routing.matches(binding, words(random, 80))
        routing.message_attributes(words(random), {odd_text(random)[:50]: odd(random)})

    return target


# --- names, URLs, options -----------------------------------------------------------------------------------------


def _names(_stack: ExitStack) -> Target:
    arn = "arn:aws:sqs:eu-west-1:111122223333:dev__email.fifo"

    def target(random: Random) -> None:
        text = odd_text(random) if random.random() < 0.3 else spoilt_text(random, arn)
        namer = naming.Namer("dev" if random.random() < 0.5 else "", style=random.choice(("hake", "kombu")))
        naming.is_incarnation(text)
        naming.valid_namespace(text)
        naming.queue_account(text)
        namer.owns(text)
        for make in (naming.parse_arn, namer.queue, namer.topic, namer.incarnation):
            try:
                made = make(text)
            except HakeError:
                continue
            if make not in (naming.parse_arn,):
                assert isinstance(made, str)
                assert made.isascii(), made
                assert len(made) <= 256, made

    return target


def _urls(_stack: ExitStack) -> Target:
    usual = f"hake://key:{_SECRET}@127.0.0.1:4566/dev?region=eu-west-1&visibility_timeout=30&predefined_queues=x"
    names = [*settings.OPTIONS, "unknown", ""]

    def target(random: Random) -> None:
        head, _, tail = usual.partition(_SECRET)
        # The secret itself stays whole and in its place: errors must not show it, however the rest is written.
        keeps_secret = random.random() < 0.8
        url = head + _SECRET + spoilt_text(random, tail) if keeps_secret else spoilt_text(random, usual)
        options = {random.choice(names): odd(random) for _ in range(random.randrange(4))}
        shown = [settings.mask_url(url)]
        try:
            loaded = settings.load(settings.split_url(url), options, {"AWS_REGION": odd_text(random)})
            shown.append(repr(loaded))
            loaded.key()
            _ = loaded.is_local
            loaded.is_best_effort("orders")
        except HakeError as exc:
            shown += [str(exc), repr(exc)]
        assert not keeps_secret or _SECRET not in " ".join(shown), shown

    return target


# --- answers ------------------------------------------------------------------------------------------------------


class _Odd(BaseHTTPRequestHandler):
    """Answers every request with what it was told to."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = self.answer
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def _answers(stack: ExitStack) -> Target:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Odd)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    url = f"hake://key:secret@127.0.0.1:{server.server_port}"
    clients = Clients(make_settings(url, max_attempts=1, read_timeout=5.0, connect_timeout=5.0))
    message = {"Body": "x", "MessageId": "1", "ReceiptHandle": "h", "Attributes": {"SentTimestamp": "5"}}
    received = {"Messages": [message]}
    batch = {"Successful": [{"Id": "0"}], "Failed": [{"Id": "1", "Code": "InternalError", "SenderFault": False}]}
    refused = {"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"}
    published = b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"
    portal = b"<html><head><title>Log in</title></head><body>Welcome</body></html>"

    def target(random: Random) -> None:
        usual = json.dumps(spoilt(random, random.choice((received, batch, refused)))).encode()
        body = random.choice((usual, portal, published, b"", b"null", b"[" * 5_000, b"\xff\xfe", usual[:-3]))
        headers = {
            "Content-Type": random.choice(("application/x-amz-json-1.0", "text/html", "text/xml", "x")),
            "Date": random.choice(("Fri, 27 Nov 2026 20:00:00 GMT", "yesterday", "Fri, 99 Nov 99999 99:00:00 GMT", "")),
            "x-amzn-query-error": random.choice((";", "AWS.SimpleQueueService.NonExistentQueue;Sender", "a;b", "\xff")),
        }
        if random.random() < 0.3:
            headers["Location"] = "http://127.0.0.1:1/"
        _Odd.answer = (random.choice((200, 200, 201, 204, 302, 400, 403, 404, 407, 429, 500, 503, 599)), headers, body)
        if _Odd.answer[0] in (204,):
            _Odd.answer = (204, headers, b"")
        AwsClock().learn(headers["Date"])
        call, params = random.choice((
            (clients.sqs, ("receive_message", {"QueueUrl": f"http://127.0.0.1:{server.server_port}/1/q"})),
            (clients.sqs, ("delete_message_batch", {"QueueUrl": "http://127.0.0.1/1/q", "Entries": []})),
            (clients.sns, ("publish", {"TopicArn": "arn:aws:sns:eu-west-1:111122223333:x", "Message": "x"})),
        ))  # fmt: skip
        operation, given = params
        call(operation, **given)

    return target


TARGETS: dict[str, tuple[Callable[[ExitStack], Target], float]] = {
    # With the share of the examples that each gets.
    "messages": (_messages, 0.35),
    "letters": (_letters, 0.1),
    "tags": (_tags, 0.15),
    "policies": (_policies, 0.1),
    "filters": (_filters, 0.1),
    "names": (_names, 0.05),
    "urls": (_urls, 0.1),
    "answers": (_answers, 0.05),
}


# --- running ------------------------------------------------------------------------------------------------------


@contextmanager
def _watched(progress: int, number: int) -> Iterator[None]:
    """Note which case is tried, and end this process if it takes too long."""
    os.pwrite(progress, f"{number:12d}".encode(), 0)
    faulthandler.dump_traceback_later(_HANG_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def run(name: str, numbers: range, seed: str, progress: int) -> Iterator[dict[str, Any]]:
    """Try cases of one target: what was wrong with each that failed."""
    with ExitStack() as stack:
        target = TARGETS[name][0](stack)
        for number in numbers:
            random = Random(f"{seed}/{name}/{number}")
            error = ""
            with _watched(progress, number):
                started = time.process_time()
                try:
                    target(random)
                except (HakeError, KombuError):
                    pass
                except BaseException as exc:
                    error = f"{type(exc).__name__}: {exc}"[:300] + f" at {_where(exc)}"
                took = time.process_time() - started
            if _executed:
                error += f" ran {_executed.pop()!r}"
                _executed.clear()
            if took > MAX_CPU_S:
                error += f" took {took:.1f} s"
            if error:
                yield {"target": name, "number": number, "error": error}


def _where(exc: BaseException) -> str:
    """The innermost line of the package that the error passed."""
    found, trace = "?", exc.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent.name == "kombu_hake" or "kombu_hake" in path.parts:
            found = f"{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def main() -> int:
    """Fuzz; one JSON line for each failed case, and a last line with the count of cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--examples", type=int, default=4_000, help="in all targets together")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="try this case, and show its traceback")
    parser.add_argument("--progress", type=Path, default=Path(os.devnull))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", ResourceWarning)
    progress = os.open(options.progress, os.O_WRONLY | os.O_CREAT)
    if options.only is not None:
        [name] = options.target
        with ExitStack() as stack:
            TARGETS[name][0](stack)(Random(f"{options.seed}/{name}/{options.only}"))
        return 0
    failed = 0
    for name in options.target or TARGETS:
        count = max(1, round(options.examples * (TARGETS[name][1] if len(options.target or ()) != 1 else 1)))
        started = time.monotonic()
        for failure in run(name, range(options.first, count), options.seed, progress):
            failed += 1
            print(json.dumps(failure), flush=True)
        took = time.monotonic() - started
        print(json.dumps({"target": name, "cases": count - options.first, "seconds": round(took, 1)}), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
