"""What a run makes and what it costs, said before anything is made. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kombu_hake.cli.cost import PRICES_FROM, SNS_USD, SQS_USD

__all__ = ["CONTRACT", "MEASURING", "Part", "price_usd", "text"]


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Attributes:
        sqs_requests, sns_requests: As AWS bills them: 64 KiB of a message are one.
        lasts: In words.
    """

    name: str
    queues: int
    topics: int
    sqs_requests: int
    sns_requests: int
    lasts: str


#: Of queues and topics a little more than a run makes, of requests twice as many as on an emulator: on AWS polls find
#: nothing more often, and calls are repeated.
CONTRACT = Part("contract suite", 300, 180, 10_000, 3_500, "ten minutes to an hour, the later AWS the longer")
#: As many as where each lag is as long as AWS documents, which is the most there can be.
MEASURING = Part("measurements", 11, 2, 10_000, 1_000, "five minutes, and up to an hour if AWS is as late as it may be")


def price_usd(parts: Sequence[Part]) -> float:
    """US dollars for these parts: the first price step, without the free tier, and every call to SNS as a publish."""
    return sum(part.sqs_requests * SQS_USD + part.sns_requests * SNS_USD for part in parts) / 1e6


def text(parts: Sequence[Part], *, run: str, account_id: str, arn: str, region: str, endpoint_url: str | None) -> str:
    """The plan, to be read before it is agreed to."""
    usd = max(0.01, price_usd(parts))
    where = "AWS" if endpoint_url is None else endpoint_url
    lines = [
        f"On {where}, with the credentials of this environment:",
        f"  account  {account_id} ({arn})",
        f"  region   {region}",
        f"  names    {run}-...; nothing whose name starts otherwise is changed or removed",
        "",
        "This run makes, and removes at its end, also when it is interrupted:",
    ]
    for part in parts:
        lines.append(
            f"  {part.name}: about {part.queues:,} queues, {part.topics:,} topics, {part.sqs_requests:,} requests to "
            f"SQS and {part.sns_requests:,} to SNS;\n    takes {part.lasts}"
        )
    lines += [
        "",
        f"On AWS, this costs about {usd:.2f} USD. A million requests: {SQS_USD:.2f} to SQS, {SNS_USD:.2f} to SNS",
        f"({PRICES_FROM}, without the free tier). Other regions may cost twice as much.",
        "",
        "Use an account without production: AWS counts tag calls per account, and refuses them for some seconds while",
        "their rate is measured.",
    ]
    return "\n".join(lines)
