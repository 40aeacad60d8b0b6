"""Our signature against botocore's, for random requests."""

from __future__ import annotations

from datetime import datetime, timezone
from unittest import mock

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.aws.sigv4 import Keys, Signer

_words = st.text("ABCDEFGHabcdefgh0123456789/+=", min_size=1, max_size=60)


def botocores_headers(keys: Keys, host: str, target: str, content_type: str, body: bytes, now: float) -> dict[str, str]:
    request = AWSRequest(
        "POST", f"https://{host}/", headers={"X-Amz-Target": target, "Content-Type": content_type}, data=body
    )
    moment = datetime.fromtimestamp(now, timezone.utc).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(Credentials(*keys), "sqs", "eu-west-1").add_auth(request)
    return dict(request.headers.items())


@given(
    access=_words,
    secret=_words,
    token=st.none() | _words,
    host=st.sampled_from(["sqs.eu-west-1.amazonaws.com", "vpce-1.example.com:8443"]),
    body=st.binary(max_size=300) | st.binary(min_size=2040, max_size=70_000),
    now=st.integers(0, 4_000_000_000),
)
def test_signs_as_botocore_does(access: str, secret: str, token: str | None, host: str, body: bytes, now: int) -> None:
    keys = Keys(access, secret, token)
    target, content_type = "AmazonSQS.SendMessage", "application/x-amz-json-1.0"
    ours = Signer("sqs", "eu-west-1", host).headers(keys, target, content_type, body, now)
    theirs = botocores_headers(keys, host, target, content_type, body, now)
    assert ours.pop("Host") == host
    assert ours == theirs


def test_derived_key_follows_the_day_and_the_secret() -> None:
    signer = Signer("sqs", "eu-west-1", "h")
    day = 86_400
    seen = [
        signer.headers(Keys("a", secret), "T", "c", b"", now)["Authorization"]
        for secret, now in (("s", 0), ("s", day), ("t", day), ("s", 0))
    ]
    assert seen[0] == seen[3]
    assert len(set(seen)) == 3
