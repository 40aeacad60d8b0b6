"""Map botocore's errors to ours, by error code. Pure: takes an error, returns the new one.

SQS answers with the *legacy* code (``AWS.SimpleQueueService.NonExistentQueue``) in
``Error.Code`` and the modeled name (``QueueDoesNotExist``) in ``QueryErrorCode``; emulators give either. Both are
looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kombu_hake.aws.answers import is_aws_code
from kombu_hake.config import Settings
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    DeclarationMismatch,
    HakeError,
    LeaseLost,
    MessageTooLarge,
    PayloadMissing,
    PublishError,
    PurgeInProgress,
    QueueDeletedRecently,
    QueueNotFound,
    QuotaExceeded,
    TopicNotFound,
    TopologyError,
)
from kombu_hake.quoting import quoted, without_userinfo

__all__ = [
    "aws_operation",
    "credentials_error",
    "entry_error",
    "error_for",
    "error_from_answer",
    "error_from_transport",
    "foreign_answer",
    "unreachable",
]

_LEGACY_PREFIX = "AWS.SimpleQueueService."
_UNKNOWN_KEYS = (
    "AWS does not accept the credentials ({code}): check the access key and secret, the session token that belongs to "
    "them, and this machine's clock."
)
#: Characters of AWS's text in an error, and of the name of the resource.
_TEXT_CHARS = 1_000
_QUOTA = "A quota of AWS is used up ({code}): {message}"
_CLASSES: Mapping[str, type[HakeError]] = {
    "NoSuchKey": PayloadMissing,
    "QueueDoesNotExist": QueueNotFound,
    "NonExistentQueue": QueueNotFound,
    "NotFound": TopicNotFound,
    "NotFoundException": TopicNotFound,
    "ResourceNotFound": TopicNotFound,  # of SNS's tag calls
    "ResourceNotFoundException": TopicNotFound,  # the same, as an emulator writes it
    "QueueDeletedRecently": QueueDeletedRecently,
    "QueueAlreadyExists": DeclarationMismatch,
    "QueueNameExists": DeclarationMismatch,
    "PurgeQueueInProgress": PurgeInProgress,
    "ReceiptHandleIsInvalid": LeaseLost,
    "MessageNotInflight": LeaseLost,
    "OverLimit": QuotaExceeded,
    "TopicLimitExceeded": QuotaExceeded,
    "SubscriptionLimitExceeded": QuotaExceeded,
    "FilterPolicyLimitExceeded": QuotaExceeded,
    "TagLimitExceeded": QuotaExceeded,
}
#: AWS refuses a message, or a batch of them, for its size. SQS names the limit of the queue.
_TOO_LARGE = {"BatchRequestTooLong"}
_INVALID = {
    "InvalidParameter",
    "InvalidParameterException",
    "InvalidParameterValue",
    "InvalidParameterValueException",
}
_TOO_LARGE_TEXT = re.compile(r"message too long|message must be shorter than (?P<limit>\d{1,9}) bytes", re.I)
_DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "AllAccessDisabled",
    "AuthorizationError",
    "AuthorizationErrorException",
    "KmsAccessDenied",
    "KMSAccessDenied",
    "UnauthorizedOperation",
}
_BAD_KEYS = {
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignature",
    "InvalidSignatureException",
    "InvalidToken",  # of S3
    "MissingAuthenticationToken",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
#: AWS refuses the time of a request. SQS and SNS use the code of a wrong signature, and only the text tells the cause.
_BAD_TIME = {"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"}
_BAD_TIME_TEXT = re.compile(r"signature (?:has )?expired|signature not yet current|request has expired|skew", re.I)
# ExpiredToken is here because keys that are renewed expire only temporarily. A static session token is not renewed, and
# the text says what to do.
_PASSING = {
    "ConcurrentAccess",
    "ConcurrentAccessException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "KMS.ThrottlingException",
    "KMSThrottling",
    "KmsThrottled",
    "OperationAborted",
    "PreconditionFailed",  # of a download in parts: the object was replaced
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "StaleTag",
    "Throttled",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


def error_for(
    error: Exception, service: str, operation: str, params: Mapping[str, Any], settings: Settings
) -> HakeError | None:
    """Map *error* to an error for our callers; ``None`` for an error that is not from botocore (a bug of ours)."""
    import botocore.exceptions as bex
    from botocore.parsers import ResponseParserError

    if isinstance(error, HakeError):
        return error
    action = f"{service}:{_iam_action(operation)}"
    resource = _resource(params)
    if isinstance(error, bex.ClientError):
        if error.operation_name == "AssumeRole":  # the call needed keys, and was not sent
            return _from_response(error, "sts", "sts:AssumeRole", quoted(settings.role_arn))
        return _from_response(error, service, action, resource)
    if isinstance(error, bex.NoCredentialsError | bex.PartialCredentialsError):
        return ConfigurationError(f"No AWS credentials for {action}: {error}. Give a role, keys or a profile.")
    if isinstance(error, bex.CredentialRetrievalError | bex.MetadataRetrievalError):
        return _not_renewed(error)
    if isinstance(error, bex.NoRegionError):
        return ConfigurationError("No AWS region. Set the option region, AWS_REGION, or the profile's region.")
    if isinstance(error, bex.UnknownSignatureVersionError | bex.UnsupportedSignatureVersionError):
        return ConfigurationError(f"Option client_config: {error} See botocore.config.Config for what it takes.")
    if isinstance(error, bex.ParamValidationError):
        return PublishError(f"{action} on {resource} was not sent: {quoted(str(error), _TEXT_CHARS)}")
    cause = error.kwargs.get("error") if isinstance(error, bex.HTTPClientError) else None
    if isinstance(cause, BrokerUnavailable):
        return cause  # raised by our own check, through botocore
    if isinstance(error, ResponseParserError):
        return foreign_answer(error, action, resource)
    if isinstance(error, bex.BotoCoreError | OSError):
        return error_from_transport(error, service, operation, settings)
    return None


def credentials_error(error: Exception, role_arn: str | None = None) -> HakeError:
    """Map a failure to get the keys. Their source may raise anything; only permanent failures are not outages.

    Args:
        role_arn: The role that is assumed.
    Returns:
        :class:`AccessDenied` if AWS denies the role, :class:`ConfigurationError` if the configuration is missing or
        invalid, else :class:`BrokerUnavailable`.
    """
    import botocore.exceptions as bex

    if isinstance(error, HakeError):
        return error
    if isinstance(error, bex.ClientError):
        operation = str(getattr(error, "operation_name", None) or "AssumeRole")
        action = f"sts:{operation}" if "Role" in operation or operation.startswith("Get") else operation
        found = _from_response(error, "sts", action, role_arn or "the role of the credentials")
        is_final = isinstance(found, AccessDenied | BrokerUnavailable)
        return found if is_final else _not_renewed(found)
    if isinstance(error, bex.NoCredentialsError | bex.PartialCredentialsError):
        return ConfigurationError(f"No AWS credentials: {error}. Give a role, keys or a profile.")
    if isinstance(error, _config_errors()):
        return ConfigurationError(f"The configuration of the AWS credentials is invalid: {error}")
    return _not_renewed(error)


def _not_renewed(error: Exception) -> BrokerUnavailable:
    detail = str(error) or repr(error)
    return BrokerUnavailable(f"The AWS credentials could not be renewed: {quoted(detail, _TEXT_CHARS)}")


def _config_errors() -> tuple[type[Exception], ...]:
    import botocore.exceptions as bex

    return (
        bex.ConfigNotFound,
        bex.ConfigParseError,
        bex.InfiniteLoopConfigError,
        bex.InvalidConfigError,
        bex.ProfileNotFound,
        bex.UnknownCredentialError,
    )


def error_from_answer(
    status: int, query_error: str, answer: Mapping[str, Any], service: str, operation: str, params: Mapping[str, Any]
) -> HakeError:
    """Map an error answer of AWS's JSON protocol.

    Args:
        status: HTTP status.
        query_error: The header ``x-amzn-query-error``, ``<legacy code>;<Sender or Receiver>``.
        answer: The body, ``{"__type": "com.amazonaws.sqs#<modeled name>", "message": …}``.
    """
    type_ = answer.get("__type", "")
    modeled = type_.partition(":")[0].rpartition("#")[2] if isinstance(type_, str) else ""
    codes = (query_error.partition(";")[0] or modeled, modeled)
    text = quoted(answer.get("message") or answer.get("Message") or "", _TEXT_CHARS)
    return _from_codes(codes, text, status, service, f"{service}:{_iam_action(operation)}", _resource(params))


def error_from_transport(error: Exception, service: str, operation: str, settings: Settings) -> BrokerUnavailable:
    """Map a failure to get any answer."""
    where = settings.endpoint_url or f"{service} in {settings.region or 'the configured region'}"
    text = without_userinfo(quoted(str(error), _TEXT_CHARS))
    return BrokerUnavailable(f"{where} could not be reached for {service}:{_iam_action(operation)}: {text}")


def foreign_answer(detail: object, action: str, resource: str) -> BrokerUnavailable:
    """The error for an answer that is not from AWS."""
    return BrokerUnavailable(
        f"The answer to {action} on {resource} is not from AWS: {quoted(str(detail), _TEXT_CHARS)}. A proxy, a "
        "portal or another server may answer in its place."
    )


def unreachable(error: HakeError) -> bool:
    """Return True if *error* means that AWS was unreachable, as opposed to a refusal or throttling."""
    return isinstance(error, BrokerUnavailable) and not error.is_throttle


def entry_error(entry: Mapping[str, Any], service: str, resource: str) -> HakeError:
    """The error of one entry of a batch answer's ``Failed`` list (``Code``, ``Message``, ``SenderFault``)."""
    code, text = quoted(entry.get("Code", "")), quoted(entry.get("Message", ""), _TEXT_CHARS)
    if not entry.get("SenderFault", False):
        return BrokerUnavailable(f"{service} failed to accept an entry of a batch for {resource} ({code}): {text}")
    return _by_code((code,), text, f"{service}:batch entry", resource) or PublishError(
        f"{service} refused an entry of a batch for {resource} ({code}): {text}"
    )


def _from_response(error: Any, service: str, action: str, resource: str) -> HakeError:
    details = error.response.get("Error", {})
    codes = (str(details.get("Code", "")), str(details.get("QueryErrorCode", "")))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _from_codes(codes, quoted(details.get("Message", ""), _TEXT_CHARS), status, service, action, resource)


def _from_codes(codes: tuple[str, str], text: str, status: int, service: str, action: str, resource: str) -> HakeError:
    codes, text = (quoted(codes[0]), quoted(codes[1])), quoted(text, _TEXT_CHARS)
    if not any(map(is_aws_code, codes)):
        if status >= 500 or status == 429:
            return BrokerUnavailable(f"{action} on {resource} failed at AWS ({status}): {text}")
        return foreign_answer(f"status {status} without an error code {text}".rstrip(), action, resource)
    known = _by_code(codes, text, action, resource)
    if known is not None:
        return known
    if status >= 500 or status == 429:
        return BrokerUnavailable(f"{action} on {resource} failed at AWS ({codes[0] or status}): {text}")
    if service == "sns" and "already exists with different" in text:
        return DeclarationMismatch(f"{action} on {resource}: {text}")
    kind = PublishError if "Publish" in action or "Send" in action or action == "s3:PutObject" else TopologyError
    hint = ". Create the bucket, or correct large_messages." if codes[0] == "NoSuchBucket" else ""
    return kind(f"AWS refused {action} on {resource} ({codes[0] or status}): {text}{hint}")


def _by_code(codes: tuple[str, ...], text: str, action: str, resource: str) -> HakeError | None:
    for code in (c.removeprefix(_LEGACY_PREFIX) for c in codes if c):
        if code in _DENIED:
            return AccessDenied(
                f"AWS denies {action} on {resource}: {text or code}. Allow it in the IAM policy of the role or user, "
                "or disable the feature that needs it (see docs/iam.md).",
                action=action,
                resource=resource,
            )
        if code in _BAD_TIME or (code in _BAD_KEYS and _BAD_TIME_TEXT.search(text)):
            return BrokerUnavailable(
                f"AWS refused the time of {action} on {resource} ({code}); is this machine's clock right? {text}",
                is_clock_error=True,
            )
        if code in _BAD_KEYS:
            return ConfigurationError(_UNKNOWN_KEYS.format(code=code))
        if code in _PASSING:
            throttle = "hrottl" in code or code in ("SlowDown", "TooManyRequestsException")
            return BrokerUnavailable(f"{action} on {resource} failed for now ({code}): {text}", is_throttle=throttle)
        too_large = _TOO_LARGE_TEXT.search(text)
        if code in _TOO_LARGE or (code in _INVALID and too_large):
            limit = int(too_large["limit"] or 0) if too_large else 0
            return MessageTooLarge(f"AWS refused {action} on {resource} ({code}): {text}", limit_bytes=limit)
        found = _CLASSES.get(code)
        if found is QuotaExceeded:
            return QuotaExceeded(_QUOTA.format(code=code, message=text or action))
        if found is not None:
            return found(f"{action} on {resource} ({code}): {text or found.__doc__}")
    return None


#: Calls of :mod:`kombu_hake.aws.s3` to their actions, written as boto3 writes operations.
_OF_OBJECTS = {
    "upload": "put_object",
    "download": "get_object",
    "read_byte": "get_object",
    "find_bucket": "list_bucket",
    "lifecycle_rules": "get_lifecycle_configuration",
}


def aws_operation(operation: str) -> str:
    """What AWS is asked for by a call, as boto3 writes operations: ``put_object`` for an upload to S3."""
    return _OF_OBJECTS.get(operation, operation)


def _iam_action(operation: str) -> str:
    """boto3's name of a call to its IAM action: ``send_message_batch`` is allowed by ``SendMessage``."""
    name = "".join(part.capitalize() for part in aws_operation(operation).split("_"))
    return name.removesuffix("Batch")


def _resource(params: Mapping[str, Any]) -> str:
    if "Bucket" in params:
        return quoted(f"s3://{params['Bucket']}/{params.get('Key', '')}", _TEXT_CHARS)
    for name in ("QueueUrl", "TopicArn", "QueueName", "Name", "SubscriptionArn", "ResourceArn"):
        if name in params:
            return quoted(params[name], _TEXT_CHARS)
    return "any resource"
