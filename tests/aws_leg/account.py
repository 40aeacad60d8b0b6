"""The account of the leg ``aws``: checked by the runner, handed to the tests.

The tests' ``conftest.py`` removes every ``AWS_*`` variable before anything else. The leg is no exception: the runner
reads the credentials, and hands them to the pytest process that it starts in one variable of our own, together with
the prefix of the run, the region and the only hosts that this process may reach.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

__all__ = ["VARIABLE", "Account", "NotReady", "Opened", "is_on_loopback", "open_account"]

#: Set by the runner alone, after the consent; holds secrets.
VARIABLE = "HAKE_AWS_LEG"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SERVICES = ("sqs", "sns", "sts")


class NotReady(Exception):
    """There is no account to run on; the text says what to do."""


@dataclass(frozen=True)
class Account:
    """What a test needs of the account; has what an emulator has (:class:`support.emulators.Emulator`).

    Attributes:
        run: Prefix of everything that the run makes.
        endpoint_url: None for AWS itself.
        settle_s: How long a change of topology takes to act and to be shown; 0 for an emulator.
        hosts: The only ones that the tests may reach beyond this machine.
        runner: Process id of the runner; without it nothing would be removed.
        namespace: The namespace of :meth:`url` where the test names none.
    """

    run: str
    region: str
    endpoint_url: str | None
    settle_s: float
    hosts: tuple[str, ...]
    runner: int
    keys: Mapping[str, str] = field(repr=False)
    namespace: str = ""

    @classmethod
    def handed_over(cls, environ: Mapping[str, str] = os.environ) -> Account | None:
        """The account that the runner gave to this process; None in every other run of the tests."""
        text = environ.get(VARIABLE)
        if not text:
            return None
        found = json.loads(text)
        return cls(**{**found, "hosts": tuple(found["hosts"])})

    def handed_on(self) -> dict[str, str]:
        """The variable that gives the account to a child process."""
        return {VARIABLE: json.dumps(asdict(self))}

    def use(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Have boto3 find these credentials, and no others, in this process and its children."""
        environ.update({name: value for name, value in self.keys.items() if name in _KEYS})

    def in_namespace(self, name: str) -> Account:
        return replace(self, namespace=f"{self.run}-{name}")

    def url(self, namespace: str | None = None, **options: object) -> str:
        """A ``hake://`` broker URL, without the credentials; ``options`` go to its query."""
        where = {"region": self.region, **({"endpoint_url": self.endpoint_url} if self.endpoint_url else {})}
        return f"hake:///{self.namespace if namespace is None else namespace}?{urlencode({**where, **options})}"

    def client(self, service: str) -> Any:
        """A boto3 client that bypasses the code under test."""
        import boto3

        return boto3.client(service, region_name=self.region, endpoint_url=self.endpoint_url)

    def settle(self) -> None:
        """Wait until changes of topology act and are shown."""
        time.sleep(self.settle_s)

    def is_runner_alive(self) -> bool:
        try:
            os.kill(self.runner, 0)
        except ProcessLookupError:
            return False
        return True


@dataclass(frozen=True)
class Opened:
    """An account that STS has confirmed.

    Attributes:
        client: Makes boto3 clients, by service; ``max_attempts=1`` for one that shows each refusal.
    """

    account_id: str
    arn: str
    region: str
    endpoint_url: str | None
    keys: Mapping[str, str] = field(repr=False)
    client: Callable[..., Any] = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether it is an emulator on this machine."""
        return is_on_loopback(self.endpoint_url)

    def for_tests(self, run: str, settle_s: float) -> Account:
        """What the tests need of it."""
        hosts = () if self.is_local else tuple(_host(self.client(name).meta.endpoint_url) for name in _SERVICES)
        return Account(run, self.region, self.endpoint_url, settle_s, hosts, os.getpid(), self.keys)


def is_on_loopback(endpoint_url: str | None) -> bool:
    host = _host(endpoint_url or "")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_account(region: str | None, endpoint_url: str | None) -> Opened:
    """Find credentials and region as every AWS program does, and ask STS whose they are.

    Args:
        region: None takes it from the environment or the profile.
        endpoint_url: An emulator; None for AWS.
    Raises:
        NotReady: No region, no credentials, or STS refuses them or does not answer.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    # Where the leg runs is said by --endpoint-url alone: a variable left over from an emulator must not decide it.
    os.environ["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "true"
    try:
        session = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None)
        if not session.region_name:
            raise NotReady("No region: set AWS_DEFAULT_REGION, or add --region eu-west-1.")
        credentials = session.get_credentials()
        if credentials is None:
            raise NotReady(
                "No AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if they "
                "are temporary), or AWS_PROFILE. 'aws sts get-caller-identity' shows whether they are found."
            )
        frozen = credentials.get_frozen_credentials()

        def client(service: str, max_attempts: int = 5) -> Any:
            retries = {"mode": "standard", "total_max_attempts": max_attempts}
            return session.client(service, endpoint_url=endpoint_url, config=Config(retries=retries))

        identity = client("sts", max_attempts=2).get_caller_identity()
    except ClientError as exc:
        error = exc.response.get("Error", {})
        raise NotReady(
            f"STS refuses the credentials: {error.get('Code')}: {error.get('Message')} "
            "Renew them, or name another profile with AWS_PROFILE."
        ) from exc
    except BotoCoreError as exc:
        raise NotReady(f"AWS can't be asked whose credentials these are: {exc}") from exc
    keys = dict(zip(_KEYS, (frozen.access_key, frozen.secret_key, frozen.token), strict=True))
    return Opened(
        identity["Account"],
        identity["Arn"],
        str(session.region_name),
        endpoint_url,
        {name: value for name, value in keys.items() if value},
        client,
    )


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
