"""The table of options: name, type, default, check. :mod:`kombu_hake.config.settings` reads it; the docs are made from
it.

Pure data and parsers. A parser takes what the user wrote (text from a URL or the environment, any object from
``broker_transport_options``), and returns the value or raises ``ValueError`` with the half sentence that follows
"must be".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    SQS_MAX_RECEIVE_COUNT,
    SQS_MAX_VISIBILITY_S,
    SQS_MAX_WAIT_S,
    parse_arn,
    valid_namespace,
)
from kombu_hake.exceptions import InvalidName

__all__ = ["KOMBU_KEYS", "OPTIONS", "WITHOUT_MEANING", "Option"]


#: Strict, because parsers of URLs differ on everything else.
_ENDPOINT_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?\Z",
    re.ASCII,
)


class Option(NamedTuple):
    """One option. ``aliases`` are the names that kombu's SQS transport has for it."""

    parse: Callable[[Any], Any]
    default: Any
    summary: str
    aliases: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty text")
    return value.strip()


def _maybe_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def _maybe_flag(value: Any) -> bool | None:
    return None if value is None else _flag(value)


def _number(low: float, high: float, what: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        expected = f"a number from {low:g} to {high:g} ({what})" if high < math.inf else f"a number >= {low:g} ({what})"
        if isinstance(value, bool):
            raise ValueError(expected)
        try:
            number = float(value)
        except (TypeError, ValueError):
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
        raise ValueError("a URL without user and password (AWS takes none; give keys in the broker URL)")
    if not _ENDPOINT_URL.match(value):
        raise ValueError("a URL of scheme, host, port and path, such as https://sqs.eu-west-1.amazonaws.com")
    return value.rstrip("/")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("a dict with text keys (give it in broker_transport_options, not in the URL)")
    return dict(value)


def _text_mapping(value: Any) -> Mapping[str, str]:
    # A truth value or a document (a redrive policy) as AWS writes it, not as Python does.
    return {
        key: json.dumps(item) if isinstance(item, bool | Mapping) else str(item)
        for key, item in _mapping(value).items()
    }


#: Attributes of SQS whose value is a document.
_DOCUMENTS = {"Policy", "RedriveAllowPolicy", "RedrivePolicy"}


def _queue_attributes(value: Any) -> Mapping[str, str]:
    """``{attribute: value}``, and ``{pattern of queue names: {attribute: value}}``, whose value becomes JSON text."""
    found: dict[str, str] = {}
    for name, item in _mapping(value).items():
        if isinstance(item, Mapping) and name not in _DOCUMENTS:
            found[name] = json.dumps(_text_mapping(item))
        else:
            found |= _text_mapping({name: item})
    return found


def _queues(value: Any) -> Mapping[str, str]:
    """``{name: {"url": ...}}`` as in ``sqs://``; also ``{name: {"arn": ...}}`` and ``{name: url or ARN}``."""
    queues: dict[str, str] = {}
    for name, given in _mapping(value).items():
        entry = given if isinstance(given, Mapping) else {"arn" if str(given).startswith("arn:") else "url": given}
        unknown = sorted(set(entry) - {"url", "arn", "backoff_policy", "backoff_tasks"})
        if unknown:
            raise ValueError(
                f"a dict of queue name to {{'url': …}} or {{'arn': …}}; {name!r} also has {', '.join(unknown)}, which "
                "is not supported (every queue of one broker URL is used with the credentials and region of that URL)"
            )
        address = entry.get("url", entry.get("arn"))
        if not isinstance(address, str) or not address or ("url" in entry and "arn" in entry):
            raise ValueError(f"a dict of queue name to {{'url': …}} or {{'arn': …}}, but {name!r} has no url or arn")
        if "arn" in entry and not _is_arn_of("sqs", address):
            raise ValueError(f"a dict of queue name to {{'arn': 'arn:…:sqs:…'}}; that of {name!r} is not")
        if name.endswith(FIFO_SUFFIX) != address.endswith(FIFO_SUFFIX):
            raise ValueError(f"consistent: the name and the address of a FIFO queue end in .fifo, {name!r} differs")
        queues[name] = address
    return queues


def _is_arn_of(service: str, text: str) -> bool:
    try:
        return parse_arn(text).service == service
    except InvalidName:
        return False


def _exchanges(value: Any) -> Mapping[str, Any]:
    """``{name: {"arn": ...}}`` as in ``sqs://``; also ``{name: arn}``."""
    exchanges: dict[str, Any] = {}
    for name, entry in _mapping(value).items():
        arn = entry.get("arn") if isinstance(entry, Mapping) else entry
        unknown = sorted(set(entry) - {"arn"}) if isinstance(entry, Mapping) else []
        if unknown:
            raise ValueError(
                f"a dict of exchange name to {{'arn': …}}; {name!r} also has {', '.join(unknown)}, which is unsupported"
            )
        if not isinstance(arn, str) or not _is_arn_of("sns", arn):
            raise ValueError(f"a dict of exchange name to {{'arn': 'arn:…:sns:…'}}; that of {name!r} is not")
        if name.endswith(FIFO_SUFFIX) != arn.endswith(FIFO_SUFFIX):
            raise ValueError(f"consistent: the name and the ARN of a FIFO topic end in .fifo, {name!r} differs")
        exchanges[name] = arn
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


def _dead_letter_queue(value: Any) -> str | None:
    """``{queue}`` stands for the queue's name."""
    if value in (None, False, "") or (isinstance(value, str) and value.lower() in ("false", "0", "no", "off")):
        return None
    if value is True or (isinstance(value, str) and value.lower() in ("true", "1", "yes", "on")):
        return "{queue}-dead"
    if not isinstance(value, str) or value.count("{") + value.count("}") != 2 * value.count("{queue}"):
        raise ValueError("true, or the name of a queue in which {queue} stands for that of the queue it belongs to")
    if value.strip() == "{queue}":
        raise ValueError("another name than that of the queue itself, such as {queue}-dead")
    return value.strip()


OPTIONS: Mapping[str, Option] = {
    # --- who and where
    "region": Option(_maybe_text, None, "AWS region.", env=("AWS_REGION", "AWS_DEFAULT_REGION")),
    "profile": Option(_maybe_text, None, "Named profile of the AWS configuration files."),
    "session_token": Option(_maybe_text, None, "Session token that belongs to temporary keys given in the URL."),
    "role_arn": Option(_maybe_text, None, "Role to assume; renewed by botocore.", aliases=("sts_role_arn",)),
    "role_duration": Option(
        _whole(900, 43_200, "seconds"), 3600, "Life of an assumed role's keys, seconds.", aliases=("sts_token_timeout",)
    ),
    "endpoint_url": Option(_endpoint, None, "Endpoint for SNS, SQS and STS; the host of the URL says the same."),
    "sqs_endpoint_url": Option(_endpoint, None, "Endpoint for SQS alone, such as a VPC endpoint."),
    "sns_endpoint_url": Option(_endpoint, None, "Endpoint for SNS alone."),
    "is_secure": Option(_maybe_flag, None, "https (true) or http (false) to the host of the URL; http on loopback."),
    "account_id": Option(_account, None, "Account of the topics, for roles that may not ask STS."),
    # --- names
    "namespace": Option(_namespace, "", "Put before every name; the path of the URL says the same."),
    "queue_name_prefix": Option(lambda v: v if v == "" else _text(v), "", "Put before every name as it stands."),
    "name_style": Option(_choice("hake", "kombu"), "hake", "kombu: the names that sqs:// makes ('.' becomes '-')."),
    "predefined_queues": Option(_queues, {}, "Queues made elsewhere: {name: url or ARN}. Never made or deleted."),
    "predefined_exchanges": Option(_exchanges, {}, "Topics made elsewhere: {name: ARN}. Never made or deleted."),
    # --- declaring
    "topology": Option(
        _choice("auto", "verify", "assume"),
        "auto",
        "auto: make what is declared and missing; verify: fail with a list of it; assume: it is there, ask nothing.",
    ),
    "direct_exchanges": Option(
        _choice("auto", "topic"), "auto", "auto: a queue bound to the direct exchange of its own name needs no topic."
    ),
    "best_effort_exchanges": Option(
        _patterns, ("*.pidbox", "celeryev"), "Where SNS is denied: warn and do without these exchanges."
    ),
    "unroutable": Option(
        _choice("warn", "raise", "ignore"), "warn", "What to do with a message that no queue would receive."
    ),
    "queue_policy": Option(
        _choice("topics", "namespace"), "topics", "namespace: one statement for all topics of the namespace."
    ),
    "fanout_priorities": Option(
        _flag, False, "Priorities also hold for queues that get everything of an exchange (fanout, '#'); see Routing."
    ),
    "dead_letter_queue": Option(
        _dead_letter_queue, None, "Gives every durable queue a dead-letter queue: a name, '{queue}-dead', or true."
    ),
    "max_receive_count": Option(
        _whole(1, SQS_MAX_RECEIVE_COUNT, "receives"), 20, "After so many receives AWS dead-letters a message."
    ),
    "keep_undelivered": Option(
        _flag, True, "Keep what SNS can't deliver to a queue that has a dead-letter queue: in '<queue>-undelivered'."
    ),
    "queue_attributes": Option(
        _queue_attributes,
        {},
        "SQS attributes of queues that are created; also by pattern of names.",
        aliases=("sqs-creation-attributes",),
    ),
    "queue_tags": Option(_text_mapping, {}, "Tags of queues and topics that are created."),
    "temporary_queue_limit": Option(
        _number(2, 86_400, "seconds"), 600.0, "A temporary queue may be removed after so long without sign of life, s."
    ),
    "janitor_interval": Option(
        _number(0, 604_800, "seconds"),
        3600.0,
        "How often, about, to look for temporary queues that were left behind, s; 0: only by command.",
    ),
    # --- moving messages
    "visibility_timeout": Option(
        _whole(1, SQS_MAX_VISIBILITY_S, "seconds"), 120, "How long AWS hides a received message unless renewed, s."
    ),
    "on_lost_lease": Option(
        _choice("warn", "terminate"), "warn", "terminate: end a running task whose message somebody else may have."
    ),
    "wait_time_seconds": Option(_whole(0, SQS_MAX_WAIT_S, "seconds"), SQS_MAX_WAIT_S, "Length of a long poll, s."),
    "check_bindings": Option(
        _number(0, 86_400, "seconds; 0 never"),
        300.0,
        "How often a consumer looks whether its queue's subscriptions are still there, s; 0 never.",
    ),
    "max_pollers": Option(_whole(1, 64, "threads per queue"), 8, "Most concurrent polls of one busy queue."),
    "ack_linger": Option(_number(0, 5, "seconds"), 0.1, "How long an ack may wait for others to share a request, s."),
    "stop_timeout": Option(_number(0, 60, "seconds"), 5.0, "Most time that closing spends on acks and releases, s."),
    # --- requests
    "connect_timeout": Option(_number(0.1, 300, "seconds"), None, "TCP connect timeout, s; broker_connection_timeout."),
    "read_timeout": Option(_number(1, 300, "seconds"), 15.0, "Time to wait for an answer that is no long poll, s."),
    "max_attempts": Option(_whole(1, 20, "attempts"), 3, "Tries of one request inside the SDK, the first included."),
    "client_config": Option(_mapping, {}, "More arguments of botocore.config.Config.", aliases=("client-config",)),
}

#: What kombu writes into ``transport_options`` by itself (``Producer.publish`` with ``retry=True``,
#: ``Connection._extract_failover_opts``). Accepted, and no part of what makes two connections share clients.
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

#: Options of kombu's SQS transport that have no meaning here, and why. Each is warned of once.
WITHOUT_MEANING: Mapping[str, str] = {
    "polling_interval": "there is no pause between polls; idle queues are long-polled",
    "sqs_base64_encoding": "bodies are plain JSON, which sqs:// reads, and base64 from sqs:// is understood",
    "fetch_message_attributes": "what is needed is always fetched",
    "regioninfo": "give region, or endpoint_url",
    "port": "give it in the URL",
    "sts_token_buffer_time": "botocore renews the keys of an assumed role ahead of time by itself",
}
#: The same, where no warning is due because the user gets what was asked for.
GRANTED_ANYWAY = frozenset({"supports_fanout"})


