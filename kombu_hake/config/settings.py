"""Parse broker URL, options and environment into one frozen :class:`Settings`. Pure, except for reading ``environ``.

Precedence, first wins: ``broker_transport_options``, query of the URL, environment, default. The key, secret, host and
namespace in the URL are used only where the corresponding option is not set. All faults are reported together. No
``repr`` and no error shows a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from kombu_hake.amqp import Namer, Store
from kombu_hake.config.options import (
    GRANTED_ANYWAY,
    KOMBU_KEYS,
    OPTIONS,
    WITHOUT_MEANING,
    WITHOUT_MEANING_INSIDE,
    Access,
    Backoff,
    Predefined,
)
from kombu_hake.exceptions import ConfigurationError, InvalidName
from kombu_hake.quoting import guarded, quoted, without_userinfo

__all__ = [
    "SCHEME",
    "Settings",
    "UrlParts",
    "join_url",
    "kombu_fields",
    "load",
    "mask_url",
    "masked",
    "masked_url",
    "region_of_url",
    "revealed",
    "split_url",
]

logger = guarded(logging.getLogger(__name__))
SCHEME = "hake"
DEFAULT_CONNECT_TIMEOUT_S = 5.0
_ALIASES = {alias: name for name, option in OPTIONS.items() for alias in option.aliases}
#: Names of options, and of keys inside of options, whose values are secret.
_SECRETS = frozenset({"session_token", "secret_access_key", "aws_session_token", "aws_secret_access_key"})
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)\Z", re.DOTALL)
#: Options that contain secrets.
_HOLD_SECRETS = frozenset({"client_config", "client-config", "predefined_queues", "predefined_exchanges"})
#: A host, a port and a path, before the query; with no room for a secret.
_WITHOUT_SECRET = re.compile(r"(\[[^]]*]|[^:/]*)(:[0-9]{0,5})?(/.*)?\Z", re.DOTALL)
#: A valid host of an endpoint. It contains no character with a special meaning in a URL.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]\Z", re.ASCII)
#: Names of containers, such as ``ci-localstack-1``, look much the same.
_REGION_AS_HOST = re.compile(
    r"[a-z]{2}(?:-gov|-iso[a-z]?)?-(?:central|north|south|(?:north|south)?(?:east|west))-[0-9]\Z", re.ASCII
)
_LOCAL_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*localhost", re.ASCII)
_URL_OF_AWS = re.compile(
    r"https?://(?:sqs(?:-fips)?\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+)\.(?:queue\.|api\.)?(?:amazon)?aws"
)
_Entry = TypeVar("_Entry")
_SERVICES: tuple[Literal["sqs", "sns"], ...] = ("sqs", "sns")
_warned: set[str] = set()


class UrlParts(NamedTuple):
    """The unquoted parts of a broker URL; ``None`` or ``""`` for a missing part."""

    key: str | None
    secret: str | None
    host: str | None
    port: int | None
    namespace: str
    query: Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """The validated configuration. Compares by value, so that equal settings share clients."""

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    role_duration: int = 3600
    endpoint_url: str | None = None
    sqs_endpoint_url: str | None = None
    sns_endpoint_url: str | None = None
    #: Service to the endpoint that boto3 takes from the environment where no option gives one.
    environment_endpoints: Mapping[str, str] = field(default_factory=dict, repr=False)
    account_id: str | None = None
    namer: Namer = field(default_factory=Namer)
    predefined_queues: Mapping[str, str] = field(default_factory=dict)
    predefined_exchanges: Mapping[str, str] = field(default_factory=dict)
    #: By queue URL or topic ARN: keys and region, where they differ from the connection's.
    access: Mapping[str, Access] = field(default_factory=dict, repr=False)
    #: By queue.
    backoff: Mapping[str, Backoff] = field(default_factory=dict)
    topology: str = "auto"
    direct_exchanges: str = "auto"
    best_effort_exchanges: tuple[str, ...] = ("*.pidbox", "celeryev")
    unroutable: str = "warn"
    queue_policy: str = "topics"
    tenant_from: str | None = None
    fanout_priorities: bool = False
    dead_letter_queue: str | None = None
    max_receive_count: int = 20
    keep_undelivered: bool = True
    queue_attributes: Mapping[str, str] = field(default_factory=dict)
    queue_tags: Mapping[str, str] = field(default_factory=dict)
    temporary_queue_limit: float = 600.0
    janitor_interval: float = 3600.0
    visibility_timeout: int = 120
    on_lost_lease: str = "warn"
    wait_time_seconds: int = 20
    check_bindings: float = 300.0
    max_pollers: int = 8
    health_file: str | None = None
    compress_above: int | None = None
    compression: str = "gzip"
    large_messages: Store | None = None
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_S
    read_timeout: float = 15.0
    max_attempts: int = 3
    client_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    telemetry: bool = True

    def key(self) -> str:
        """Equal for settings that may share clients and caches. Contains secrets: compare it, but never print it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["access"] = {address: astuple(access) for address, access in self.access.items()}
        values["backoff"] = {queue: (sorted(b.tasks), sorted(b.delays_s.items())) for queue, b in self.backoff.items()}
        return repr([(name, sorted(v.items()) if isinstance(v, Mapping) else v) for name, v in values.items()])

    def is_best_effort(self, exchange: str) -> bool:
        """Return True if the exchange is best effort."""
        return _matches(exchange, self.best_effort_exchanges)

    def predefined_queue(self, queue: str) -> str | None:
        """URL or ARN of a queue in ``predefined_queues``; None for any other."""
        return self._of_queue(self.predefined_queues, queue)

    def backoff_of(self, queue: str) -> Backoff | None:
        """The backoff policy of a predefined queue, if it has one."""
        return self._of_queue(self.backoff, queue)

    def _of_queue(self, entries: Mapping[str, _Entry], queue: str) -> _Entry | None:
        """The entry of a queue, by its name or else by its name in AWS, which is how ``sqs://`` looks it up."""
        if not entries or not queue:
            return None
        found = entries.get(queue)
        return entries.get(self.namer.queue(queue)) if found is None else found

    def backoff_s(self, queue: str, task: str | None, receives: int) -> int | None:
        """Seconds until a rejected message is redelivered; None if no backoff policy applies.

        After the last step of the policy it is the visibility timeout, as with ``sqs://``.
        """
        backoff = self.backoff_of(queue)
        if backoff is None or task not in backoff.tasks:
            return None
        return backoff.delays_s.get(receives, self.visibility_timeout)

    def endpoint_of(self, service: Literal["sqs", "sns"]) -> str | None:
        """The endpoint of a service that an option, the URL or the environment names; None for AWS's own."""
        option = self.sqs_endpoint_url if service == "sqs" else self.sns_endpoint_url
        return option or self.endpoint_url or self.environment_endpoints.get(service)

    @property
    def is_local(self) -> bool:
        """Return True if SQS and SNS are an emulator on this machine, where changes take effect at once."""
        return all(_is_loopback(_host_of(self.endpoint_of(service))) for service in _SERVICES)


def split_url(url: str) -> UrlParts:
    """Parse a ``hake://`` URL.

    The credentials end at the last ``@`` before the query, so that a secret key with unquoted ``/`` and ``+``
    is accepted.

    Raises:
        ConfigurationError: it is not a broker URL, or its port is not a number.
    """
    match = _URL.match(url)
    if not match:
        raise ConfigurationError(
            f"{mask_url(url)!r} is not a broker URL. Write hake://, or hake://host:port/namespace?region=eu-west-1."
        )
    rest, _, query = match["rest"].partition("?")
    credentials, at, location = rest.rpartition("@")
    key, _, secret = credentials.partition(":") if at else ("", "", "")
    netloc, _, path = location.partition("/")
    host, port = _host_and_port(netloc, url)
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    return UrlParts(unquote(key) or None, unquote(secret) or None, host, port, unquote(path).strip("/"), pairs)


def join_url(parts: UrlParts) -> str:
    """Build a URL from its parts and quote them; the inverse of :func:`split_url`."""
    credentials = f"{_quoted(parts.key)}:{_quoted(parts.secret)}@" if parts.key or parts.secret else ""
    port = f":{parts.port}" if parts.port else ""
    query = f"?{urlencode(parts.query)}" if parts.query else ""
    path = f"/{quote(parts.namespace)}" if parts.namespace else ""
    return f"{SCHEME}://{credentials}{parts.host or ''}{port}{path}{query}"


def _quoted(text: str | None) -> str:
    return quote(text or "", safe="")


def _host_and_port(netloc: str, url: str) -> tuple[str | None, int | None]:
    if netloc.startswith("["):  # [::1]:4566
        host, _, port = netloc[1:].partition("]")
        port = port.lstrip(":")
        host = f"[{host}]"
    else:
        host, _, port = netloc.partition(":")
    if port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ConfigurationError(
            f"The port in {mask_url(url)!r} must be a number from 1 to 65535. If the access key or secret holds '@' "
            "or '?', write it percent-encoded (urllib.parse.quote(secret, safe=''))."
        )
    if host and not _HOST.match(host):
        raise ConfigurationError(
            f"The host in {mask_url(url)!r} must be a host name or an IP address. If the access key or secret holds "
            "'@', '?' or '#', write it percent-encoded (urllib.parse.quote(secret, safe=''))."
        )
    return (host or None), (int(port) if port else None)


def mask_url(url: str, mask: str = "**") -> str:
    """*url* with the secret key, the session token and all other secrets replaced by *mask*.

    In an invalid URL, too much is masked rather than too little: a secret with an unquoted ``?`` ends at the last
    ``@``, and an invalid port counts as a secret.
    """
    scheme, sep, rest = url.partition("://") if "://" in url else ("", "", url)
    head, question, query = rest.partition("?")
    credentials, at, location = head.rpartition("@")
    if not at and not _WITHOUT_SECRET.match(head):
        if "@" in query:
            credentials, at, rest = rest.rpartition("@")
            location, question, query = rest.partition("?")
        else:
            credentials, location = head, ""
    key, colon, _secret = credentials.partition(":")
    pairs = [
        f"{name}={mask}" if unquote(name) in _SECRETS | _HOLD_SECRETS else f"{name}{eq}{_without_userinfo(value, mask)}"
        for name, eq, value in (part.partition("=") for part in query.split("&"))
    ]
    return f"{scheme}{sep}{key}{colon}{mask if colon else ''}{at}{location}{question}{'&'.join(pairs)}"


def _without_userinfo(quoted: str, mask: str) -> str:
    """Mask a value of a query: a URL in it (``endpoint_url``) may have credentials."""
    plain = unquote(quoted)
    shown = without_userinfo(plain, mask)
    return quoted if shown == plain else shown


class Masked(str):
    """Text with a secret that is masked when printed, logged or sent; :attr:`real` is the text itself.

    It compares and hashes like the text itself, so that masking changes no value.
    """

    real: str

    def __new__(cls, shown: str, real: str) -> Masked:
        masked = super().__new__(cls, shown)
        masked.real = real
        return masked

    def __eq__(self, other: object) -> bool:
        return self.real == (other.real if isinstance(other, Masked) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.real)

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # two, as __new__ takes
        return str.__str__(self), self.real


def kombu_fields(url: str) -> dict[str, Any]:
    """The fields of a kombu connection for a ``hake://`` URL: the whole URL as host name, and the port.

    The credentials stay in the URL, so that those of one URL are not used for the next one after a fail-over. An
    invalid URL has no port here; the error is raised when the connection is opened.
    """
    try:
        port = split_url(revealed(url)).port
    except ConfigurationError:
        port = None
    return {"transport": SCHEME, "hostname": masked_url(url), "port": port}


def masked_url(url: str) -> str:
    """A broker URL, :class:`Masked` if it holds a secret."""
    real = revealed(url)
    shown = mask_url(real)
    return real if shown == real else Masked(shown, real)


def masked(value: Any) -> Any:
    """*value* with the secrets in it :class:`Masked`, at any depth of dicts and lists.

    Secrets are texts under a name such as ``secret_access_key``, and URLs with credentials.
    """
    if isinstance(value, Masked):
        return value
    if isinstance(value, str):
        shown = without_userinfo(value)
        return value if shown == value else Masked(shown, value)
    if isinstance(value, Mapping):
        return {
            key: Masked("**", item) if key in _SECRETS and type(item) is str else masked(item)
            for key, item in value.items()
        }
    return type(value)(masked(item) for item in value) if type(value) in (list, tuple) else value


def revealed(value: Any) -> Any:
    """Undo :func:`masked`."""
    if isinstance(value, Masked):
        return value.real
    if isinstance(value, Mapping):
        return {key: revealed(item) for key, item in value.items()}
    return type(value)(revealed(item) for item in value) if type(value) in (list, tuple) else value


def load(
    parts: UrlParts,
    transport_options: Mapping[str, Any],
    environ: Mapping[str, str],
    connect_timeout: float | None = None,
) -> Settings:
    """The settings for a URL, options and environment.

    Args:
        connect_timeout: kombu's ``broker_connection_timeout``, seconds; an option takes precedence.
    Raises:
        ConfigurationError: lists every fault.
    """
    faults: list[str] = []
    given = _gather(parts, transport_options, environ, faults)
    values = {name: option.default for name, option in OPTIONS.items()}
    for name, (value, origin, written) in given.items():
        try:
            values[name] = OPTIONS[name].parse(value)
        except ValueError as exc:
            faults.append(f"{origin} {written}: {_shown(name, value)} must be {exc}.")
    if values["connect_timeout"] is None:
        values["connect_timeout"] = float(connect_timeout or DEFAULT_CONNECT_TIMEOUT_S)
    if (parts.key is None) != (parts.secret is None):
        faults.append("The URL has only one of access key and secret key: give both or neither.")
    _check_together(values, parts, faults)
    if faults:
        raise ConfigurationError(faults)
    namer = Namer(values.pop("namespace"), values.pop("queue_name_prefix"), values.pop("name_style"))
    _take_region_of_client_config(values)
    values["access"] = _access(values, parts)
    queues: Mapping[str, Predefined] = values["predefined_queues"]
    values["backoff"] = {name: entry.backoff for name, entry in queues.items() if entry.backoff}
    for option in ("predefined_queues", "predefined_exchanges"):
        values[option] = {name: entry.address for name, entry in values[option].items()}
    is_secure = values.pop("is_secure")
    if parts.host and not values["endpoint_url"]:
        values["endpoint_url"] = _endpoint_of(parts, is_secure)
    values["environment_endpoints"] = _environment_endpoints(environ)
    return Settings(access_key_id=parts.key, secret_access_key=parts.secret, namer=namer, **values)


def _gather(
    parts: UrlParts, transport_options: Mapping[str, Any], environ: Mapping[str, str], faults: list[str]
) -> dict[str, tuple[Any, str, str]]:
    """Option name to (value, where it was given, the name it has there), by precedence."""
    given: dict[str, tuple[Any, str, str]] = {}
    for name, option in OPTIONS.items():
        for variable in option.env:
            if environ.get(variable):
                given.setdefault(name, (environ[variable], f"Environment variable {variable} for", name))
    if parts.namespace:
        given["namespace"] = (parts.namespace, "Path of the URL, the", "namespace")
    for origin, source in (("Option in the URL", parts.query), ("Transport option", transport_options)):
        for written, value in source.items():
            name = _ALIASES.get(written, written)
            if name in OPTIONS:
                if value is None:  # as in sqs://: not given
                    continue
                known = given.get(name)
                if known is not None and known[1] == origin:
                    faults.append(f"{origin} {written!r} is the same as {known[2]!r}: give one of them.")
                given[name] = (value, origin, written)
            elif written in WITHOUT_MEANING:
                _warn_once(written)
            elif written not in KOMBU_KEYS and written not in GRANTED_ANYWAY:
                faults.append(f"{origin} {written!r} is unknown; {_nearest(written)}")
    return given


def _shown(name: str, value: Any) -> str:
    """An invalid value for an error text, unless it may contain a secret."""
    if name in _SECRETS or name in _HOLD_SECRETS or isinstance(value, Mapping):
        return "its value"
    return without_userinfo(quoted(value) if not isinstance(value, str) else repr(value))


def _take_region_of_client_config(values: dict[str, Any]) -> None:
    """Use its ``region_name`` unless an option sets the region; botocore would give it precedence."""
    config = dict(values["client_config"])
    region = config.pop("region_name", None)
    if region is not None:
        values["client_config"] = config
        values["region"] = values["region"] or region


def _access(values: Mapping[str, Any], parts: UrlParts) -> dict[str, Access]:
    """By address, the keys and region of each predefined entry that has its own."""
    found: dict[str, Access] = {}
    entries: list[Predefined] = [*values["predefined_queues"].values(), *values["predefined_exchanges"].values()]
    for entry in entries:
        if entry.access is None:
            continue
        access = entry.access
        if values["role_arn"]:
            if access.access_key_id or access.session_token:
                _warn_once("access_key_id")
            access = Access(region=access.region)
        elif access.session_token and not access.access_key_id:  # the session token belongs to the keys of the URL
            access = replace(access, access_key_id=parts.key, secret_access_key=parts.secret)
        found[entry.address] = replace(access, region=access.region or region_of_url(entry.address))
    return found


def region_of_url(url: str) -> str | None:
    """The region in the URL of a queue or the ARN of a topic, if any."""
    if url.startswith("arn:"):
        return url.split(":")[3] or None
    match = _URL_OF_AWS.match(url)
    return match["region"] if match else None


def _check_together(values: Mapping[str, Any], parts: UrlParts, faults: list[str]) -> None:
    if values["session_token"] and not parts.key:
        faults.append("session_token needs the access key and secret in the URL.")
    if values["profile"] and parts.key:
        faults.append("Give either the keys in the URL or profile, not both.")
    region_name = values["client_config"].get("region_name")
    if not isinstance(region_name, str | None):
        faults.append("client_config: region_name must be text.")
    if values["endpoint_url"] and parts.host:
        faults.append("Give either a host in the URL or endpoint_url, not both.")
    if parts.host and not parts.port and _REGION_AS_HOST.match(parts.host):
        faults.append(f"The host of the URL is an endpoint, not a region: write {SCHEME}://?region={parts.host}.")
    _check_prefix(values, faults)


def _check_prefix(values: Mapping[str, Any], faults: list[str]) -> None:
    """A prefix that is part of every name in AWS as it is must leave room, and have characters that AWS allows."""
    if values["queue_name_prefix"] and values["name_style"] == "kombu":
        try:
            Namer(values["namespace"], values["queue_name_prefix"], "kombu").queue("q")
        except InvalidName:
            faults.append(
                "queue_name_prefix must be shorter than 80 letters, digits, '-' and '_', as names with "
                "name_style=kombu begin with it."
            )


def _endpoint_of(parts: UrlParts, is_secure: bool | None) -> str:
    host = str(parts.host)
    secure = not _is_loopback(host.strip("[]")) if is_secure is None else is_secure
    port = f":{parts.port}" if parts.port else ""
    return f"{'https' if secure else 'http'}://{host}{port}"


def _environment_endpoints(environ: Mapping[str, str]) -> dict[str, str]:
    """Service to endpoint, as botocore reads the environment (``botocore/configprovider.py``)."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return {}
    named = {
        one: environ.get(f"AWS_ENDPOINT_URL_{one.upper()}") or environ.get("AWS_ENDPOINT_URL") for one in _SERVICES
    }
    return {service: url for service, url in named.items() if url}


def _host_of(url: str | None) -> str:
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:  # of the environment, which botocore judges
        return ""


def _is_loopback(host: str) -> bool:
    """Return True if a host name or address, without port and brackets, is certain to be this machine."""
    host = host.lower()
    if _LOCAL_NAME.fullmatch(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nearest(written: object) -> str:
    names = [*OPTIONS, *_ALIASES, *WITHOUT_MEANING]
    close = difflib.get_close_matches(str(written).lower(), names, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else "see the table of options in docs/options.md."


def _warn_once(written: str) -> None:
    if written not in _warned:
        _warned.add(written)
        logger.warning(
            "HAKE705 The option %s of sqs:// has no meaning for hake:// and is ignored: %s.",
            written,
            {**WITHOUT_MEANING, **WITHOUT_MEANING_INSIDE}[written],
        )
