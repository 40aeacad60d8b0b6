"""What kombu, Celery and users can do with our errors."""

import copy
import inspect
import pickle

import kombu.exceptions
import pytest

from kombu_hake import exceptions as ex
from kombu_hake.transport import Transport

CLASSES = [getattr(ex, name) for name in ex.__all__]
CHANNEL, CONNECTION, NONE = "channel", "connection", "none"
PLACES = {
    ex.AccessDenied: CHANNEL,
    ex.BrokerUnavailable: CONNECTION,
    ex.ConfigurationError: NONE,
    ex.DeclarationMismatch: CHANNEL,
    ex.DeliveryError: CHANNEL,
    ex.HakeError: NONE,
    ex.InvalidEvent: CHANNEL,
    ex.InvalidName: CHANNEL,
    ex.LeaseLost: CHANNEL,
    ex.MalformedMessage: CHANNEL,
    ex.PayloadMissing: CHANNEL,
    ex.MessageTooLarge: CHANNEL,
    ex.PublishError: CHANNEL,
    ex.PublishFailed: CHANNEL,
    ex.PurgeInProgress: CHANNEL,
    ex.QueueDeletedRecently: CHANNEL,
    ex.QueueNotFound: CHANNEL,
    ex.QuotaExceeded: CHANNEL,
    ex.ReplyQueueNotFound: CHANNEL,
    ex.TopicNotFound: CHANNEL,
    ex.TopologyError: CHANNEL,
    ex.TopologyIncomplete: CHANNEL,
    ex.Unroutable: CHANNEL,
}

EXAMPLES = [
    ex.ConfigurationError(["one fault", "another"]),
    ex.BrokerUnavailable("slow down", is_throttle=True),
    ex.AccessDenied("no", action="sqs:SendMessage", resource="arn:…"),
    ex.MessageTooLarge("too big", size_bytes=300_000, limit_bytes=262_144),
    ex.PublishFailed("some", failed=[("first", ex.QueueNotFound("gone")), ("second", ex.PublishError("bad"))]),
    ex.InvalidEvent("wrong", faults=["order_id must be int, not str"]),
    ex.MalformedMessage("what?", message_id="m-1"),
    ex.PayloadMissing("gone"),
    ex.TopologyIncomplete(["one fault", "another"]),
    *(cls("a message") for cls in CLASSES),
    *(cls() for cls in CLASSES if cls is not ex.ConfigurationError),
]


def state(error: Exception) -> dict[str, object]:
    return {name: repr(value) for name, value in vars(error).items()}


def test_every_class_that_exists_is_public_and_has_a_place() -> None:
    defined = {cls for _, cls in inspect.getmembers(ex, inspect.isclass) if cls.__module__ == ex.__name__}
    assert defined == set(CLASSES) == set(PLACES)
    assert all(cls.__doc__ for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_place_among_the_tuples_of_the_transport(cls: type[Exception]) -> None:
    assert issubclass(cls, Transport.channel_errors) == (PLACES[cls] == CHANNEL)
    assert issubclass(cls, Transport.recoverable_connection_errors) == (PLACES[cls] == CONNECTION)
    assert not issubclass(cls, Transport.recoverable_channel_errors)
    if cls is not ex.ReplyQueueNotFound:  # kombu's own InconsistencyError counts as a connection error
        assert issubclass(cls, Transport.connection_errors) == (PLACES[cls] == CONNECTION)


def test_only_what_trying_again_can_mend_is_retried_by_kombu() -> None:
    # kombu reconnects on recoverable_connection_errors and retries in place on recoverable_channel_errors.
    retried = (*Transport.recoverable_connection_errors, *Transport.recoverable_channel_errors)
    assert [cls for cls in CLASSES if issubclass(cls, retried)] == [ex.BrokerUnavailable]


def test_users_catch_kombus_own_classes() -> None:
    assert issubclass(ex.BrokerUnavailable, kombu.exceptions.OperationalError)
    assert issubclass(ex.QueueNotFound, kombu.exceptions.ChannelError)
    assert issubclass(ex.TopologyError, kombu.exceptions.ChannelError)
    assert issubclass(ex.ReplyQueueNotFound, kombu.exceptions.InconsistencyError)
    assert issubclass(ex.ConfigurationError, ValueError)
    assert all(issubclass(cls, kombu.exceptions.KombuError) for cls in CLASSES)


def test_not_found_has_the_reply_code_of_amqp() -> None:
    assert (ex.QueueNotFound.code, ex.TopicNotFound.code, ex.DeclarationMismatch.code) == (404, 404, 406)
    assert all(cls.code for cls in CLASSES if issubclass(cls, ex.TopologyError))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{str(error)[:9]}")
def test_errors_survive_pickling(error: Exception) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert (str(again), again.args, state(again)) == (str(error), error.args, state(error))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{str(error)[:9]}")
def test_errors_can_be_copied(error: Exception) -> None:
    again = copy.copy(error)
    assert again is not error
    assert (type(again), str(again), state(again)) == (type(error), str(error), state(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_text_is_the_message(cls: type[Exception]) -> None:
    assert str(cls("what happened, and what to do")) == "what happened, and what to do"


def test_several_faults_are_listed_one_a_line() -> None:
    error = ex.ConfigurationError(["no region", "no keys"])
    assert error.faults == ("no region", "no keys")
    assert str(error) == "2 faults in the configuration:\n  - no region\n  - no keys"
    assert str(ex.ConfigurationError(["no region"])) == "no region"


def test_the_text_of_an_error_cannot_drive_a_terminal_and_keeps_its_lines() -> None:
    error = ex.QueueNotFound("no \x1b[31mqueue\ud800\n  - a")
    assert str(error) == "no \\x1b[31mqueue\\ud800\n  - a"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(ex.PublishError("x" * 1_000_000))) <= 20_000
