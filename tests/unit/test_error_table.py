"""botocore's errors and AWS's answers become ours, whichever of its two codes the service gives."""

import http.client
from typing import Any

import botocore.exceptions as bex
import pytest
from botocore.exceptions import ClientError
from fakes import make_settings

from kombu_hake import exceptions as ex
from kombu_hake.aws.error_table import entry_error, error_for, error_from_answer, unreachable

SETTINGS = make_settings()
PREFIX = "AWS.SimpleQueueService."
URL = "https://sqs.eu-west-1.amazonaws.com/111122223333/q"


def client_error(code: str, modeled: str = "", status: int = 400, text: str = "as AWS says it") -> ClientError:
    error: dict[str, Any] = {"Code": code, "Message": text}
    if modeled:
        error["QueryErrorCode"] = modeled
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "SendMessage")


def translated(error: Exception, service: str = "sqs", operation: str = "send_message", **params: Any) -> Exception:
    found = error_for(error, service, operation, params or {"QueueUrl": URL}, SETTINGS)
    assert found is not None
    return found


SQS_CODES = [
    (PREFIX + "NonExistentQueue", "QueueDoesNotExist", 400, ex.QueueNotFound),
    (PREFIX + "QueueDeletedRecently", "QueueDeletedRecently", 400, ex.QueueDeletedRecently),
    ("QueueAlreadyExists", "QueueNameExists", 400, ex.DeclarationMismatch),
    (PREFIX + "PurgeQueueInProgress", "PurgeQueueInProgress", 403, ex.PurgeInProgress),
    ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", 400, ex.LeaseLost),
    (PREFIX + "MessageNotInflight", "MessageNotInflight", 400, ex.LeaseLost),
    ("OverLimit", "OverLimit", 403, ex.QuotaExceeded),
    ("RequestThrottled", "RequestThrottled", 403, ex.BrokerUnavailable),
    ("ThrottlingException", "", 400, ex.BrokerUnavailable),
    ("KMS.ThrottlingException", "KmsThrottled", 400, ex.BrokerUnavailable),
    ("AccessDenied", "AccessDeniedException", 403, ex.AccessDenied),
    ("AccessDeniedException", "", 400, ex.AccessDenied),
    ("InvalidClientTokenId", "", 403, ex.ConfigurationError),
    ("InvalidToken", "", 400, ex.ConfigurationError),
    ("SignatureDoesNotMatch", "", 403, ex.ConfigurationError),
    ("UnrecognizedClientException", "", 400, ex.ConfigurationError),
    ("ExpiredToken", "", 403, ex.BrokerUnavailable),
    ("InvalidParameterValue", "InvalidParameterValueException", 400, ex.PublishError),
    ("InternalError", "", 500, ex.BrokerUnavailable),
    ("SomethingNew", "", 503, ex.BrokerUnavailable),
    ("SomethingNew", "", 429, ex.BrokerUnavailable),
    ("SomethingNew", "", 400, ex.PublishError),
]
SNS_CODES = [
    ("NotFound", 404, ex.TopicNotFound),
    ("AuthorizationError", 403, ex.AccessDenied),
    ("Throttled", 429, ex.BrokerUnavailable),
    ("Throttling", 400, ex.BrokerUnavailable),
    ("FilterPolicyLimitExceeded", 403, ex.QuotaExceeded),
    ("SubscriptionLimitExceeded", 403, ex.QuotaExceeded),
    ("TopicLimitExceeded", 403, ex.QuotaExceeded),
    ("StaleTag", 400, ex.BrokerUnavailable),
    ("ConcurrentAccess", 400, ex.BrokerUnavailable),
    ("KMSAccessDenied", 400, ex.AccessDenied),
    ("InternalError", 500, ex.BrokerUnavailable),
    ("InvalidParameter", 400, ex.TopologyError),
    ("ParameterValueInvalid", 400, ex.TopologyError),
]


@pytest.mark.parametrize(("legacy", "modeled", "status", "cls"), SQS_CODES)
def test_sqs_errors_by_both_codes_together(legacy: str, modeled: str, status: int, cls: type[Exception]) -> None:
    assert type(translated(client_error(legacy, modeled, status))) is cls


@pytest.mark.parametrize(("legacy", "modeled", "status", "cls"), [case for case in SQS_CODES if case[1]])
def test_sqs_errors_by_either_code_alone(legacy: str, modeled: str, status: int, cls: type[Exception]) -> None:
    # Emulators give one of the two, and not always the same.
    assert type(translated(client_error(legacy, "", status))) is cls
    assert type(translated(client_error(modeled, "", status))) is cls


@pytest.mark.parametrize(("legacy", "modeled", "status", "cls"), SQS_CODES)
def test_an_answer_read_without_botocore_means_the_same(
    legacy: str, modeled: str, status: int, cls: type[Exception]
) -> None:
    header = f"{legacy};Sender" if modeled else ""
    answer = {"__type": f"com.amazonaws.sqs#{modeled or legacy}", "message": "as AWS says it"}
    found = error_from_answer(status, header, answer, "sqs", "send_message", {"QueueUrl": URL})
    assert type(found) is cls
    assert str(found) == str(translated(client_error(legacy, modeled, status)))


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 407, 413, 429, 500, 503])
def test_an_answer_without_an_error_code_is_not_of_aws(status: int) -> None:
    assert type(error_from_answer(status, "", {}, "sqs", "send_message", {})) is ex.BrokerUnavailable
    for code in ("", str(status), "Unknown", "UnknownError"):  # what botocore puts there
        for service, operation in (("sqs", "receive_message"), ("sns", "publish"), ("sts", "get_caller_identity")):
            found = translated(client_error(code, "", status, "<html>\x1b[31m\nforged line"), service, operation)
            assert type(found) is ex.BrokerUnavailable
            assert "\n" not in str(found)
            assert "\x1b" not in str(found)


@pytest.mark.parametrize(("code", "status", "cls"), SNS_CODES)
def test_sns_errors(code: str, status: int, cls: type[Exception]) -> None:
    found = translated(client_error(code, "", status), "sns", "subscribe", TopicArn="arn:aws:sns:r:1:t", Protocol="sqs")
    assert type(found) is cls


@pytest.mark.parametrize("what", ["Topic", "Subscription"])
def test_what_exists_with_different_attributes_is_told_by_its_text(what: str) -> None:
    text = f"Invalid parameter: Attributes Reason: {what} already exists with different attributes"
    found = translated(client_error("InvalidParameter", "", 400, text), "sns", "create_topic", Name="t")
    assert type(found) is ex.DeclarationMismatch


@pytest.mark.parametrize("operation", ["publish", "publish_batch"])
def test_a_refused_publish_is_a_publish_error(operation: str) -> None:
    found = translated(client_error("InvalidParameter"), "sns", operation, TopicArn="arn:aws:sns:r:1:t")
    assert type(found) is ex.PublishError


@pytest.mark.parametrize(
    ("service", "code", "text", "limit_bytes"),
    [
        ("sns", "InvalidParameter", "Invalid parameter: Message too long", 0),
        ("sns", "BatchRequestTooLong", "The length of all the batch messages put together is more than the limit.", 0),
        (
            "sqs",
            "InvalidParameterValue",
            "One or more parameters are invalid. Reason: Message must be shorter than 262144 bytes.",
            262_144,
        ),
        ("sqs", PREFIX + "BatchRequestTooLong", "Batch requests cannot be longer than 1048576 bytes.", 0),
    ],
)
def test_a_message_that_is_refused_for_its_size(service: str, code: str, text: str, limit_bytes: int) -> None:
    operation = "publish" if service == "sns" else "send_message"
    found = translated(client_error(code, "", 400, text), service, operation)
    assert isinstance(found, ex.MessageTooLarge)
    assert found.limit_bytes == limit_bytes
    failed = entry_error({"Id": "0", "Code": code, "Message": text, "SenderFault": True}, service, "orders")
    assert isinstance(failed, ex.MessageTooLarge)
    assert failed.limit_bytes == limit_bytes


@pytest.mark.parametrize(
    ("service", "operation", "params", "action", "resource"),
    [
        ("sqs", "send_message_batch", {"QueueUrl": URL, "Entries": []}, "sqs:SendMessage", URL),
        ("sqs", "change_message_visibility_batch", {"QueueUrl": URL}, "sqs:ChangeMessageVisibility", URL),
        ("sqs", "get_queue_url", {"QueueName": "q"}, "sqs:GetQueueUrl", "q"),
        ("sns", "publish_batch", {"TopicArn": "arn:t"}, "sns:Publish", "arn:t"),
        ("sns", "create_topic", {"Name": "t"}, "sns:CreateTopic", "t"),
        ("sns", "set_subscription_attributes", {"SubscriptionArn": "arn:s"}, "sns:SetSubscriptionAttributes", "arn:s"),
        ("sts", "get_caller_identity", {}, "sts:GetCallerIdentity", "any resource"),
    ],
)
def test_a_denial_names_the_iam_action_and_the_resource(
    service: str, operation: str, params: dict[str, Any], action: str, resource: str
) -> None:
    found = error_for(client_error("AccessDenied", "", 403), service, operation, params, SETTINGS)
    assert isinstance(found, ex.AccessDenied)
    assert (found.action, found.resource) == (action, resource)
    assert action in str(found)
    assert resource in str(found)
    assert "IAM" in str(found)


def test_a_role_that_may_not_be_assumed_is_named_whatever_call_needed_its_keys() -> None:
    role = "arn:aws:iam::111122223333:role/shop-worker"
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, "AssumeRole")
    found = error_for(denied, "sqs", "receive_message", {"QueueUrl": URL}, make_settings(role_arn=role))
    assert isinstance(found, ex.AccessDenied)
    assert (found.action, found.resource) == ("sts:AssumeRole", role)
    assert "ReceiveMessage" not in str(found)


@pytest.mark.parametrize("code", ["Throttled", "Throttling", "ThrottlingException", "RequestThrottled", "SlowDown"])
def test_throttling_is_told_from_other_faults(code: str) -> None:
    found = translated(client_error(code))
    assert isinstance(found, ex.BrokerUnavailable)
    assert found.is_throttle
    fault = translated(client_error("InternalError", "", 500))
    assert isinstance(fault, ex.BrokerUnavailable)
    assert not fault.is_throttle


@pytest.mark.parametrize(
    ("error", "cls", "text"),
    [
        (bex.NoCredentialsError(), ex.ConfigurationError, "No AWS credentials"),
        (bex.PartialCredentialsError(provider="env", cred_var="secret"), ex.ConfigurationError, "No AWS credentials"),
        (bex.NoRegionError(), ex.ConfigurationError, "AWS_REGION"),
        (bex.CredentialRetrievalError(provider="sso", error_msg="x"), ex.BrokerUnavailable, "renewed"),
        (bex.MetadataRetrievalError(error_msg="x"), ex.BrokerUnavailable, "renewed"),
        (bex.ParamValidationError(report="bad"), ex.PublishError, "was not sent"),
        (bex.EndpointConnectionError(endpoint_url="http://x"), ex.BrokerUnavailable, "could not be reached"),
        (bex.ConnectTimeoutError(endpoint_url="http://x"), ex.BrokerUnavailable, "could not be reached"),
        (bex.ReadTimeoutError(endpoint_url="http://x"), ex.BrokerUnavailable, "could not be reached"),
        (bex.ConnectionClosedError(endpoint_url="http://x"), ex.BrokerUnavailable, "could not be reached"),
        (bex.SSLError(endpoint_url="http://x", error="cert"), ex.BrokerUnavailable, "could not be reached"),
        (TimeoutError("timed out"), ex.BrokerUnavailable, "could not be reached"),
    ],
)
def test_errors_without_an_answer(error: Exception, cls: type[Exception], text: str) -> None:
    found = translated(error)
    assert type(found) is cls
    assert text in str(found)
    assert "sqs:SendMessage" in str(found) or "region" in str(found) or "renewed" in str(found)


def test_an_unreachable_endpoint_is_named() -> None:
    assert "http://localhost:1 could not be reached" in str(translated(TimeoutError()))
    assert unreachable(ex.BrokerUnavailable("x"))
    assert not unreachable(ex.AccessDenied("x"))


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), http.client.HTTPException("x")])
def test_an_error_of_our_own_is_left_alone(error: Exception) -> None:
    assert error_for(error, "sqs", "send_message", {}, SETTINGS) is None


@pytest.mark.parametrize(
    ("entry", "cls"),
    [
        ({"Code": "InternalError", "SenderFault": False}, ex.BrokerUnavailable),
        ({"Code": "AnythingElse"}, ex.BrokerUnavailable),
        ({"Code": "ReceiptHandleIsInvalid", "SenderFault": True}, ex.LeaseLost),
        ({"Code": PREFIX + "MessageNotInflight", "SenderFault": True}, ex.LeaseLost),
        ({"Code": "InvalidParameterValue", "SenderFault": True}, ex.PublishError),
        ({"Code": "AccessDenied", "SenderFault": True}, ex.AccessDenied),
        ({"Code": "ThrottlingException", "SenderFault": True}, ex.BrokerUnavailable),
        ({}, ex.BrokerUnavailable),
    ],
)
def test_an_entry_of_a_batch_is_tried_again_unless_it_is_our_fault(entry: dict[str, Any], cls: type[Exception]) -> None:
    assert type(entry_error(entry, "sqs", "q")) is cls


def test_errors_hold_the_words_of_aws() -> None:
    assert "as AWS says it" in str(translated(client_error("SomethingNew")))
    assert "as AWS says it" in str(
        entry_error({"Code": "X", "Message": "as AWS says it", "SenderFault": True}, "sqs", "")
    )


@pytest.mark.parametrize("text", ["no\n2026-01-01 INFO all is well \x1b[2J\u202e\ud800", "x" * 1_000_000])
def test_what_an_answer_says_is_one_bounded_line(text: str) -> None:
    answer = {"__type__": text, "message": text, "__type": f"#{text}"}
    entry = {"Code": text, "Message": text}
    errors = [
        error_from_answer(400, text, answer, "sqs", "send_message", {"QueueUrl": text}),
        error_from_answer(503, "", answer, "sns", "publish", {"TopicArn": text}),
        translated(client_error(text, text, 400, text)),
        translated(bex.ParamValidationError(report=text)),
        entry_error(entry | {"SenderFault": True}, "sqs", "q"),
        entry_error(entry, "sqs", "q"),
    ]
    for error in errors:
        assert str(error).isprintable()
        assert len(str(error)) < 4_000
