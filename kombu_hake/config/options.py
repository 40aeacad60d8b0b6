"""The table of options: name, type, default, check. :mod:`kombu_hake.config.settings` reads it; the documentation is
generated from it.

Pure data and parsers. A parser takes the user's value (text from a URL or the environment, any object from
``broker_transport_options``), and returns the parsed value or raises ``ValueError`` with the end of a sentence that
starts with "must be".
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    DEFAULT_PATTERN,
    DOCUMENT_ATTRIBUTES,
    FIFO_SUFFIX,
    SQS_MAX_DELAY_S,
    SQS_MAX_MESSAGE_BYTES,
    SQS_MAX_RECEIVE_COUNT,
    SQS_MAX_RETENTION_S,
    SQS_MAX_VISIBILITY_S,
    SQS_MAX_WAIT_S,
    SQS_MIN_RETENTION_S,
    Store,
    is_codec,
    parse_arn,
    parse_store,
    read_object,
    valid_namespace,
)
from kombu_hake.exceptions import InvalidName

__all__ = [
    "COMMON",
    "KOMBU_KEYS",
    "OPTIONS",
    "STORIES",
    "WITHOUT_MEANING",
    "WITHOUT_MEANING_INSIDE",
    "Access",
    "Backoff",
    "Option",
    "Predefined",
]

#: Strict, because URL parsers disagree about everything else.
_ENDPOINT_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?\Z",
    re.ASCII,
)
_TRUTHS = {**dict.fromkeys(("true", "1", "yes", "on"), True), **dict.fromkeys(("false", "0", "no", "off"), False)}
#: A queue as AWS and emulators address it: at least an account and a name after the host.
_QUEUE_URL = re.compile(r"https?://[^/\s]+(?:/[^/\s]+)+/?\Z")
#: As botocore checks it; AWS's own, and those of emulators.
_REGION = re.compile(r"(?![0-9]+\Z)(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z", re.ASCII)
_ROLE_ARN = re.compile(r"arn:[a-z0-9-]+:iam::[0-9]{12}:role/\S+\Z", re.ASCII)
#: Names of SQS attributes, such as VisibilityTimeout. AWS adds new ones from time to time.
_ATTRIBUTE = re.compile(r"[A-Z][A-Za-z0-9]+\Z", re.ASCII)
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class Option(NamedTuple):
    """One option. ``aliases`` are its names in kombu's SQS transport."""

    parse: Callable[[Any], Any]
    default: Any
    summary: str
    aliases: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True)
class Access:
    """Keys and region of one predefined queue or exchange, where they differ from the connection's."""

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None


@dataclass(frozen=True)
class Backoff:
    """``backoff_tasks`` and ``backoff_policy`` of a predefined queue: when a rejected task is delivered again."""

    tasks: frozenset[str]
    #: Receive count of the message to the seconds until it is redelivered.
    delays_s: Mapping[int, int]


class Predefined(NamedTuple):
    """One entry of ``predefined_queues`` or ``predefined_exchanges``."""

    #: URL or ARN.
    address: str
    access: Access | None = None
    backoff: Backoff | None = None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty text")
    return value.strip()


def _maybe_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _region(value: Any) -> str | None:
    text = _maybe_text(value)
    if text is not None and not _REGION.match(text):
        raise ValueError("a region of AWS, such as eu-west-1")
    return text


def _role_arn(value: Any) -> str | None:
    text = _maybe_text(value)
    if text is not None and not _ROLE_ARN.match(text):
        raise ValueError("the ARN of a role, such as arn:aws:iam::123456789012:role/worker")
    return text


def _flag(value: Any) -> bool:
    found = _truth(value)
    if found is None:
        raise ValueError("true or false")
    return found


def _truth(value: Any) -> bool | None:
    """The value as true or false, also where it is text; None for any other value."""
    if isinstance(value, str):
        return _TRUTHS.get(value.lower())
    return value if isinstance(value, bool) else None


def _maybe_flag(value: Any) -> bool | None:
    return None if value is None else _flag(value)


def _number(low: float, high: float, what: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        bounds = f"from {low:.9g} to {high:.9g}" if high < math.inf else f">= {low:g}"
        expected = f"a number {bounds} ({what})"
        if isinstance(value, bool):
            raise ValueError(expected)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(expected) from None
        if not low <= number <= high:  # refuses nan too
            raise ValueError(expected)
        return number

    return parse


def _whole(low: int, high: int, what: str) -> Callable[[Any], int]:
    parse_number = _number(low, high, what)

    def parse(value: Any) -> int:
        number = parse_number(value)
        if number != int(number):
            raise ValueError(f"a whole number from {low} to {high} ({what})")
        return int(number)

    return parse


def _visibility_timeout(value: Any) -> int:
    # sqs:// treats an empty text, such as from an unset environment variable, as its default.
    return 120 if value == "" else _whole(1, SQS_MAX_VISIBILITY_S, "seconds")(value)


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return str(value)

    return parse


def _namespace(value: Any) -> str:
    if not isinstance(value, str) or not valid_namespace(value):
        raise ValueError("letters, digits, '-' and single '_' inside, at most 32 characters")
    return value


def _endpoint(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith(("http://", "https://")) or not value.split("://", 1)[1]:
        raise ValueError("a URL that starts with http:// or https://")
    if "@" in value:
        raise ValueError("a URL without user and password (AWS accepts none; give keys in the broker URL)")
    if not _ENDPOINT_URL.match(value):
        raise ValueError("a URL of scheme, host, port and path, such as https://sqs.eu-west-1.amazonaws.com")
    return value.rstrip("/")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("a dict with text keys (give it in broker_transport_options, not in the URL)")
    return dict(value)


def _aws_text(key: str, value: Any) -> str:
    """A boolean or a document (a redrive policy) as AWS writes it, not as Python does."""
    if isinstance(value, bool | Mapping):
        return json.dumps(value)
    if not isinstance(value, str | int | float):
        raise ValueError(f"a dict in which {key} is text, a number, a truth value or a dict, not {value!r}")
    return str(value)


def _queue_tags(value: Any) -> Mapping[str, str]:
    tags = {key: _aws_text(key, item) for key, item in _mapping(value).items()}
    for key, text in tags.items():
        if key.lower().startswith(("aws:", "hake:")):
            raise ValueError(f"a dict of tags without {key!r}: keys that start with aws: or hake: are reserved")
        if not 1 <= len(key) <= 128 or len(text) > 256:
            raise ValueError(f"a dict of tags with keys of 1 to 128 characters, and values of up to 256: {key[:130]!r}")
    return tags


#: Attributes of SQS whose value is a number, with its least and its greatest one.
_NUMBERS = {
    "DelaySeconds": (0, SQS_MAX_DELAY_S),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
    "MaximumMessageSize": (1_024, SQS_MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": (SQS_MIN_RETENTION_S, SQS_MAX_RETENTION_S),
    "ReceiveMessageWaitTimeSeconds": (0, SQS_MAX_WAIT_S),
    "VisibilityTimeout": (0, SQS_MAX_VISIBILITY_S),
}


def _attributes(given: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _mapping(given).items():
        if not _ATTRIBUTE.match(name):
            raise ValueError(f"a dict of SQS attributes such as VisibilityTimeout, or of patterns of queue names; "
                             f"{name!r} is not an attribute")  # fmt: skip
        if name in DOCUMENT_ATTRIBUTES and isinstance(value, str):
            try:
                read_object(value)
            except ValueError:
                raise ValueError(f"a dict in which {name} is a dict, or the text of a JSON object") from None
        if name in _NUMBERS:
            low, high = _NUMBERS[name]
            try:
                found[name] = str(_whole(low, high, "")(value))
            except ValueError:
                raise ValueError(f"a dict in which {name} is a whole number from {low} to {high}") from None
        else:
            found[name] = _aws_text(name, value)
    return found


def _queue_attributes(value: Any) -> Mapping[str, str]:
    """``{attribute: value}``, and ``{pattern of queue names: {attribute: value}}``, whose value becomes JSON text."""
    found: dict[str, str] = {}
    for name, item in _mapping(value).items():
        if isinstance(item, Mapping) and name not in DOCUMENT_ATTRIBUTES:
            found[name] = json.dumps(_attributes(item))
        else:
            found |= _attributes({name: item})
    return found


_ACCESS_KEYS = ("access_key_id", "secret_access_key", "session_token", "region")


def _queues(value: Any) -> Mapping[str, Predefined]:
    """``{name: {"url": ...}}`` as in ``sqs://``; also ``{name: {"arn": ...}}`` and ``{name: url or ARN}``."""
    queues: dict[str, Predefined] = {}
    for name, given in _mapping(value).items():
        entry = given if isinstance(given, Mapping) else {"arn" if str(given).startswith("arn:") else "url": given}
        unknown = sorted(set(entry) - {"url", "arn", "backoff_policy", "backoff_tasks", *_ACCESS_KEYS})
        if unknown:
            raise ValueError(
                f"a dict of queue name to {{'url': …}} or {{'arn': …}}; {name!r} also has {', '.join(unknown)}, which "
                "is not supported"
            )
        address = entry.get("url", entry.get("arn"))
        if not isinstance(address, str) or not address or ("url" in entry and "arn" in entry):
            raise ValueError(f"a dict of queue name to {{'url': …}} or {{'arn': …}}, but {name!r} has no url or arn")
        if "arn" in entry and not _is_arn_of("sqs", address):
            raise ValueError(f"a dict of queue name to {{'arn': 'arn:…:sqs:…'}}; that of {name!r} is not")
        if name.endswith(FIFO_SUFFIX) != address.endswith(FIFO_SUFFIX):
            raise ValueError(f"consistent: the name and the address of a FIFO queue end in .fifo, {name!r} differs")
        if "@" in address:
            raise ValueError(f"without user and password in the url of {name!r} (give access_key_id and the others)")
        access = _access(name, entry)
        if access and "arn" in entry:
            raise ValueError(f"a dict in which {name!r} has a url instead of an arn, because it has keys or a region")
        backoff = _backoff(name, entry)
        if not _QUEUE_URL.match(address) and not _is_arn_of("sqs", address):
            raise ValueError(
                f"a dict in which the url of {name!r} is like https://sqs.eu-west-1.amazonaws.com/123456789012/{name}"
            )
        queues[name] = Predefined(address, access, backoff)
    return queues


def _access(name: str, entry: Mapping[str, Any]) -> Access | None:
    found = {key: entry[key] for key in _ACCESS_KEYS if entry.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"a dict in which {key} of {name!r} is a non-empty text")
    if "region" in found and not _REGION.match(found["region"]):
        raise ValueError(f"a dict in which region of {name!r} is a region of AWS, such as eu-west-1")
    if ("access_key_id" in found) != ("secret_access_key" in found):
        raise ValueError(f"a dict in which {name!r} has both access_key_id and secret_access_key, or neither")
    return Access(**found) if found else None


def _backoff(name: str, entry: Mapping[str, Any]) -> Backoff | None:
    policy, tasks = entry.get("backoff_policy") or {}, entry.get("backoff_tasks") or ()
    if not isinstance(policy, Mapping) or not isinstance(tasks, list | tuple | set | frozenset):
        raise ValueError(
            f"a dict in which backoff_policy of {name!r} is like {{1: 10, 2: 20}} and backoff_tasks a list of names"
        )
    count, seconds = _whole(1, 1_000_000, "receives"), _whole(0, SQS_MAX_VISIBILITY_S, "seconds")
    try:
        delays_s = {count(key): seconds(value) for key, value in policy.items()}
    except ValueError as exc:
        raise ValueError(f"a dict in which backoff_policy of {name!r} is like {{1: 10, 2: 20}}: {exc}") from None
    return Backoff(frozenset(map(str, tasks)), delays_s) if delays_s and tasks else None


def _is_arn_of(service: str, text: str) -> bool:
    try:
        return parse_arn(text).service == service
    except InvalidName:
        return False


def _exchanges(value: Any) -> Mapping[str, Predefined]:
    """``{name: {"arn": ...}}`` as in ``sqs://``; also ``{name: arn}``."""
    exchanges: dict[str, Predefined] = {}
    for name, given in _mapping(value).items():
        entry = given if isinstance(given, Mapping) else {"arn": given}
        unknown = sorted(set(entry) - {"arn", *_ACCESS_KEYS})
        if unknown:
            raise ValueError(
                f"a dict of exchange name to {{'arn': …}}; {name!r} also has {', '.join(unknown)}, which is unsupported"
            )
        arn = entry.get("arn")
        if not isinstance(arn, str) or not _is_arn_of("sns", arn):
            raise ValueError(f"a dict of exchange name to {{'arn': 'arn:…:sns:…'}}; that of {name!r} is not")
        if name.endswith(FIFO_SUFFIX) != arn.endswith(FIFO_SUFFIX):
            raise ValueError(f"consistent: the name and the ARN of a FIFO topic end in .fifo, {name!r} differs")
        exchanges[name] = Predefined(arn, _access(name, entry))
    return exchanges


def _patterns(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of name patterns, such as ['*.pidbox', 'celeryev']")
    return tuple(item.strip() for item in items if item.strip())


def _account(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) == 12):
        raise ValueError("an AWS account number of twelve digits (as text, so that leading zeros stay)")
    return text


def _health_file(value: Any) -> str | None:
    """Celery replaces ``%h`` (host) and ``%n`` (name of the node), as in ``--pidfile``."""
    if value is None:
        return None
    if not isinstance(value, str) or not os.path.isabs(value) or not value.isprintable():
        raise ValueError("the absolute path of a file, such as /run/celery/%n.health")
    if os.path.basename(value) in ("", ".", "..") or set(re.findall("%(.?)", value.replace("%%", ""))) - set("hndpiI"):
        raise ValueError("the path of a file in which %h is the host and %n the node, such as /run/celery/%n.health")
    return value


def _dead_letter_queue(value: Any) -> str | None:
    """``{queue}`` stands for the queue's name."""
    if value in (None, False, "") or _truth(value) is False:
        return None
    if _truth(value):
        return DEFAULT_PATTERN
    if (
        not isinstance(value, str)
        or not value.strip()
        or value.count("{") + value.count("}") != 2 * value.count("{queue}")
    ):
        raise ValueError("true, or the name of a queue in which {queue} stands for that of the queue it belongs to")
    if value.strip() == "{queue}":
        raise ValueError("another name than that of the queue itself, such as {queue}-dead")
    if value.strip().endswith(FIFO_SUFFIX):
        raise ValueError("a name without .fifo, which is added for FIFO queues")
    return value.strip()


def _tenant_from(value: Any) -> str | None:
    text = _maybe_text(value)
    if text is not None and ":" in text and not _IMPORT_PATH.fullmatch(text):
        raise ValueError("the name of a header without a colon, or a function as 'package.module:function'")
    return text


def _maybe_store(value: Any) -> Store | None:
    return None if value in (None, "") else parse_store(value)


def _codec(value: Any) -> str:
    if not isinstance(value, str) or not is_codec(value):
        raise ValueError("a codec that kombu has here, such as gzip, bzip2 or lzma")
    return value


def _maybe_bytes(value: Any) -> int | None:
    return None if value is None else _whole(1_024, SQS_MAX_MESSAGE_BYTES, "bytes")(value)


OPTIONS: Mapping[str, Option] = {
    # --- who and where
    "region": Option(_region, None, "AWS region.", env=("AWS_REGION", "AWS_DEFAULT_REGION")),
    "profile": Option(_maybe_text, None, "Named profile of the AWS configuration files."),
    "session_token": Option(_maybe_text, None, "Session token that belongs to temporary keys given in the URL."),
    "role_arn": Option(_role_arn, None, "Role to assume; renewed by botocore.", aliases=("sts_role_arn",)),
    "role_duration": Option(
        _whole(900, 43_200, "seconds"), 3600, "Lifetime of an assumed role's keys, s.", aliases=("sts_token_timeout",)
    ),
    "endpoint_url": Option(_endpoint, None, "Endpoint for SNS, SQS and STS; the same as a host in the URL."),
    "sqs_endpoint_url": Option(_endpoint, None, "Endpoint for SQS alone, such as a VPC endpoint."),
    "sns_endpoint_url": Option(_endpoint, None, "Endpoint for SNS alone."),
    "is_secure": Option(_maybe_flag, None, "Use https for the host of the URL; default: except on loopback."),
    "account_id": Option(_account, None, "Account of the topics, for roles that may not call STS."),
    # --- names
    "namespace": Option(_namespace, "", "Prefix of every name in AWS; also the path of the URL."),
    "queue_name_prefix": Option(lambda v: v if v == "" else _text(v), "", "Prefix of every name, without a separator."),
    "name_style": Option(_choice("hake", "kombu"), "hake", "kombu: the names that sqs:// uses ('.' becomes '-')."),
    "predefined_queues": Option(_queues, {}, "Queues created elsewhere: {name: URL or ARN}. Never created or deleted."),
    "predefined_exchanges": Option(_exchanges, {}, "Topics created elsewhere: {name: ARN}. Never created or deleted."),
    # --- declaring
    "topology": Option(
        _choice("auto", "verify", "assume"),
        "auto",
        "auto: create what is missing; verify: fail and list what is missing; assume: check nothing.",
    ),
    "direct_exchanges": Option(
        _choice("auto", "topic"), "auto", "auto: a queue bound to the direct exchange of its own name needs no topic."
    ),
    "best_effort_exchanges": Option(
        _patterns, ("*.pidbox", "celeryev"), "If SNS is denied for these exchanges, warn and continue without them."
    ),
    "unroutable": Option(
        _choice("warn", "raise", "ignore"), "warn", "What to do with a message that no queue would receive."
    ),
    "queue_policy": Option(
        _choice("topics", "namespace"), "topics", "namespace: one statement for all topics of the namespace."
    ),
    "tenant_from": Option(
        _tenant_from,
        None,
        "Source of the tenant if a message names none: a header, or a function as 'package.module:function'.",
    ),
    "fanout_priorities": Option(
        _flag, False, "Use priorities also in queues that receive everything from an exchange (fanout, '#')."
    ),
    "dead_letter_queue": Option(
        _dead_letter_queue, None, "A dead-letter queue for every durable queue: a name, '{queue}-dead', or true."
    ),
    "max_receive_count": Option(
        _whole(1, SQS_MAX_RECEIVE_COUNT, "receives"), 20, "Number of receives after which AWS dead-letters a message."
    ),
    "keep_undelivered": Option(
        _flag, True, "Keep what SNS cannot deliver to a queue with a dead-letter queue, in '<queue>-undelivered'."
    ),
    "queue_attributes": Option(
        _queue_attributes,
        {},
        "SQS attributes of new queues; optionally per name pattern.",
        aliases=("sqs-creation-attributes",),
    ),
    "queue_tags": Option(_queue_tags, {}, "Tags of new queues and topics."),
    "temporary_queue_limit": Option(
        _number(2, 86_400, "seconds"),
        600.0,
        "Time without a heartbeat after which a temporary queue may be removed, s.",
    ),
    "janitor_interval": Option(
        _number(0, 604_800, "seconds"),
        3600.0,
        "Interval between searches for abandoned temporary queues, s; 0: only by command.",
    ),
    # --- receiving messages
    "visibility_timeout": Option(_visibility_timeout, 120, "How long AWS hides a received message unless renewed, s."),
    "on_lost_lease": Option(
        _choice("warn", "terminate"),
        "warn",
        "terminate: end a running task whose message another worker may have received.",
    ),
    "wait_time_seconds": Option(_whole(0, SQS_MAX_WAIT_S, "seconds"), SQS_MAX_WAIT_S, "Length of a long poll, s."),
    "check_bindings": Option(
        _number(0, 86_400, "seconds; 0 never"),
        300.0,
        "Interval between checks of a queue's policy and subscriptions, s; 0: never.",
    ),
    "max_pollers": Option(_whole(1, 64, "threads per queue"), 8, "Maximum concurrent polls of one busy queue."),
    # --- large messages
    "compress_above": Option(_maybe_bytes, None, "Compress bodies of more than this many bytes; by default none."),
    "compression": Option(_codec, "gzip", "With compress_above: the codec, by its name in kombu, such as zstd."),
    "large_messages": Option(
        _maybe_store, None, "Location for messages that are too large: 's3://bucket/prefix'. Workers need it too."
    ),
    # --- requests
    "connect_timeout": Option(
        _number(0.1, 300, "seconds"), None, "TCP connect timeout, s (broker_connection_timeout)."
    ),
    "read_timeout": Option(_number(1, 300, "seconds"), 15.0, "Time to wait for an answer, except to a long poll, s."),
    "max_attempts": Option(_whole(1, 20, "attempts"), 3, "Attempts of one request, including the first."),
    "client_config": Option(_mapping, {}, "Further arguments for botocore.config.Config.", aliases=("client-config",)),
    # --- operating
    "health_file": Option(
        _health_file,
        None,
        "File that a worker updates while it is healthy: an absolute path, with %h and %n as in Celery's options.",
    ),
    "telemetry": Option(_flag, True, "Report metrics and traces to OpenTelemetry, if its API is installed."),
}

#: The options that most projects set; the others are for special cases.
COMMON = frozenset(
    {
        "region",
        "namespace",
        "topology",
        "unroutable",
        "dead_letter_queue",
        "queue_attributes",
        "queue_tags",
        "visibility_timeout",
        "on_lost_lease",
    }
)

#: When a user sets each option. An option without such a use is not needed.
STORIES: Mapping[str, str] = {
    "region": "The queues are in another region than that of the environment or the profile.",
    "profile": "A developer's machine has several profiles.",
    "session_token": "The URL carries temporary keys.",
    "role_arn": "The broker is in another account, or the process lacks the rights.",
    "role_duration": "The role allows shorter or longer sessions than an hour.",
    "endpoint_url": "Tests run against an emulator.",
    "sqs_endpoint_url": "A VPC endpoint for SQS has no private DNS.",
    "sns_endpoint_url": "A VPC endpoint for SNS has no private DNS.",
    "is_secure": "An emulator on another host uses http, or one on this host uses https.",
    "account_id": "The VPC has no endpoint for STS, or the role has no right to use it.",
    "namespace": "Several environments share an account.",
    "queue_name_prefix": "A project migrates from sqs:// and keeps its names.",
    "name_style": "A project migrates from sqs:// and keeps its queues, or uses both.",
    "predefined_queues": "Terraform creates a queue under another name, or another account owns it.",
    "predefined_exchanges": "Terraform creates a topic under another name, or another account owns it.",
    "topology": "Infrastructure code creates queues and topics, and workers may not.",
    "direct_exchanges": "Programs without Celery publish to the topic of a plain Celery queue.",
    "best_effort_exchanges": "Further exchanges may be denied, or workers must fail without remote control.",
    "unroutable": "An error is better than a lost message, as in tests.",
    "queue_policy": "Bindings come and go often, or a queue is bound to many exchanges.",
    "tenant_from": "A noisy customer must not delay the others, and each message already names its customer.",
    "fanout_priorities": "Tasks sent through a fanout exchange have priorities.",
    "dead_letter_queue": "Plain task queues should keep what cannot be processed.",
    "max_receive_count": "A message that kills its worker should be moved sooner, or later.",
    "keep_undelivered": "The role may not create the additional queue, or infrastructure code creates its own.",
    "queue_attributes": "Queues need your own encryption key, another retention or a redrive policy.",
    "queue_tags": "Costs are allocated by tag, or IAM policies refer to tags.",
    "temporary_queue_limit": "There should be fewer heartbeats, or abandoned queues should be removed sooner.",
    "janitor_interval": "Workers should remove abandoned queues more often, or not at all.",
    "visibility_timeout": "Messages of a killed worker should be redelivered sooner, or the network may fail longer.",
    "on_lost_lease": "A task must not run twice at the same time.",
    "wait_time_seconds": "A proxy closes connections that are idle for less than 20 s.",
    "check_bindings": "A removed subscription should be noticed sooner, or the role may not read subscriptions.",
    "max_pollers": "One worker handles thousands of short tasks a second.",
    "compress_above": "Large messages should cost less, or fit into SNS and SQS.",
    "compression": "All workers have a codec that is faster or compresses better than gzip.",
    "large_messages": "Messages contain files, images or tables of up to 256 MiB.",
    "connect_timeout": "Web requests must fail fast when AWS cannot be reached.",
    "read_timeout": "Web requests must fail fast when AWS does not answer.",
    "max_attempts": "Web requests must fail fast, or batch jobs survive longer outages.",
    "client_config": "Calls go through an HTTP proxy, or need another botocore option.",
    "health_file": "Kubernetes, ECS or systemd restarts workers that hang.",
    "telemetry": "OpenTelemetry should observe the application, but not the broker.",
}

#: What kombu itself writes into ``transport_options`` (``Producer.publish`` with ``retry=True``,
#: ``Connection._extract_failover_opts``). Accepted, but ignored when connections share clients.
KOMBU_KEYS = frozenset(
    {
        "callback",
        "connect_retries_timeout",
        "errback",
        "interval_max",
        "interval_start",
        "interval_step",
        "max_retries",
        "on_revive",
        "retry_errors",
    }
)

#: Options of kombu's SQS transport that have no meaning here, and why. Each causes one warning.
WITHOUT_MEANING: Mapping[str, str] = {
    "polling_interval": "there is no pause between polls; idle queues are long-polled",
    "sqs_base64_encoding": "bodies are plain JSON, which sqs:// reads; base64 from sqs:// is decoded",
    "fetch_message_attributes": "all attributes are always fetched; see the property message_attributes",
    "regioninfo": "give region, or endpoint_url",
    "port": "give it in the URL",
    "sts_token_buffer_time": "botocore renews the keys of an assumed role ahead of time",
}
#: The same, for keys inside of ``predefined_queues`` and ``predefined_exchanges``.
WITHOUT_MEANING_INSIDE: Mapping[str, str] = {
    "access_key_id": "with sts_role_arn, all queues and exchanges are used with the keys of that role",
}
#: The same, without a warning: the user gets the expected behaviour anyway.
GRANTED_ANYWAY = frozenset({"supports_fanout", "hub"})
