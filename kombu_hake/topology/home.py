"""Where queues and topics are: account, region and partition; addresses built from them without asking.

An address that infrastructure code gave (``predefined_queues``, ``predefined_exchanges``) is checked here for its
region: SNS refuses the ARN of another region, and SQS looks for the queue in the region of the client.
"""

from __future__ import annotations

import logging
import time

from kombu_hake.amqp import Arn, QueueArn, QueueUrl, TopicArn, parse_arn, queue_account, queue_name
from kombu_hake.aws import Clients, SingleFlight
from kombu_hake.config import Settings, region_of_url
from kombu_hake.exceptions import ConfigurationError, HakeError, TopologyError
from kombu_hake.quoting import guarded

__all__ = ["Home"]

logger = guarded(logging.getLogger(__name__))
#: Where STS can't be reached, asking costs its connect timeout.
_ASK_AGAIN_S = 60.0


class Home:
    """Knows the account of the credentials, once it was learnt. Safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings) -> None:
        self._clients = clients
        self._settings = settings
        self._flights = SingleFlight()
        self._account = settings.account_id
        self._ask_again_at = float("-inf")

    def learn_account(self, account: str) -> None:
        """Record the account of our own queues and topics, which saves asking STS."""
        if account and self._account is None:
            self._account = account

    def account(self) -> str | None:
        """The account: the option ``account_id``, what was learnt, or STS; None where STS can't be reached."""
        with self._flights("account"):
            if self._account is None and time.monotonic() >= self._ask_again_at:
                self._account = self._ask()
                self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
            return self._account

    def topic_arn(self, name: str) -> TopicArn | None:
        """The ARN of a topic of this physical name; None while the account is unknown."""
        account = self.account()
        if account is None:
            return None
        return TopicArn(str(Arn(self._clients.partition(), "sns", self._clients.region(), account, name)))

    def queue_arn(self, name: str) -> QueueArn | None:
        """The ARN of a queue of ours of this physical name, built without asking; None while the account is unknown."""
        account = self.account()
        if account is None:
            return None
        return QueueArn(str(Arn(self._clients.partition(), "sqs", self._clients.region(), account, name)))

    def address_arn(self, address: str) -> QueueArn | None:
        """The ARN of a queue in ``predefined_queues``, built without asking; None while the account is unknown.

        Args:
            address: Its URL or ARN. What a URL does not name (an emulator's names no region) is as of this connection.
        """
        if address.startswith("arn:"):
            return QueueArn(address)
        account = queue_account(address) or self.account()
        if account is None:
            return None
        region = region_of_url(address) or self._clients.region()
        return QueueArn(str(Arn(self._clients.partition(), "sqs", region, account, queue_name(address))))

    def is_foreign(self, address: str) -> bool:
        """Return True if a queue in ``predefined_queues`` is another account's."""
        owner = parse_arn(address).account if address.startswith("arn:") else queue_account(address)
        return bool(owner) and owner != (self.account() or owner)

    def queue_url(self, name: str, account: str | None = None) -> QueueUrl:
        """The URL of a queue of this physical name, built without asking SQS.

        Args:
            account: Its owner; None for the account of the credentials.
        Raises:
            ConfigurationError: the account is unknown.
        """
        account = account or self.account()
        if account is None:
            raise ConfigurationError(
                f"The URL of queue {name!r} cannot be built: the account is unknown, and STS cannot be reached. Set "
                "the option account_id, or name the queue in predefined_queues."
            )
        return QueueUrl(f"{self._clients.sqs_endpoint()}/{account}/{name}")

    def check_arn(self, arn: str, what: str) -> Arn:
        """The parts of an ARN that was configured.

        Raises:
            ConfigurationError: it is of another region.
        """
        parts = parse_arn(arn)
        self._check_region(parts.region, arn, f"{what} {arn}")
        return parts

    def check_url(self, url: str) -> None:
        """Check a queue URL that was configured; one that names no region, as with an emulator, is taken as it is.

        Raises:
            ConfigurationError: it is of another region.
        """
        region = region_of_url(url)
        if region and self._settings.endpoint_url is None and self._settings.sqs_endpoint_url is None:
            self._check_region(region, url, f"predefined queue {url}")

    def _check_region(self, region: str, address: str, what: str) -> None:
        access = self._settings.access.get(address)
        mine = (access and access.region) or self._clients.region()
        if region != mine:
            raise ConfigurationError(
                f"The {what} is in region {region}, and this broker URL is of {mine}: a connection reaches one region. "
                f"Add 'region' to an entry with a URL, use a second broker URL with region={region}, or an entity in "
                f"{mine}."
            )

    def _ask(self) -> str | None:
        try:
            return self._clients.caller_account()
        except TopologyError:
            raise
        except HakeError as exc:
            logger.info("Cannot read the account from STS (the option account_id avoids that): %s", exc)
        return None
