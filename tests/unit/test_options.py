"""The table of options covers what users of kombu's SQS transport have, and says what each option is."""

import inspect
import re

import kombu.connection
import kombu.messaging
import kombu.transport.SQS as sqs
import kombu.transport.SQS.SNS as sns
import pytest

from kombu_hake.config.options import GRANTED_ANYWAY, KOMBU_KEYS, OPTIONS, WITHOUT_MEANING

ALIASES = {alias: name for name, option in OPTIONS.items() for alias in option.aliases}


def test_every_option_of_kombus_sqs_transport_is_known() -> None:
    source = inspect.getsource(sqs) + inspect.getsource(sns)
    theirs = set(re.findall(r"""transport_options\.get\(\s*['"]([\w-]+)""", source))
    assert len(theirs) > 12
    assert theirs <= {*OPTIONS, *ALIASES, *WITHOUT_MEANING, *GRANTED_ANYWAY}


def test_every_key_that_kombu_reads_from_or_writes_to_the_options_is_accepted() -> None:
    source = inspect.getsource(kombu.connection.Connection._extract_failover_opts)
    assert set(re.findall(r"transport_opts\['(\w+)'\]", source)) <= KOMBU_KEYS
    written = inspect.getsource(kombu.messaging.Producer.publish)
    assert "transport_options.update" in written
    assert {"max_retries", "interval_start", "interval_step", "interval_max", "errback"} <= KOMBU_KEYS


def test_no_name_means_two_things() -> None:
    names = [*OPTIONS, *ALIASES, *WITHOUT_MEANING, *GRANTED_ANYWAY, *KOMBU_KEYS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_default_is_what_its_own_parser_accepts(name: str) -> None:
    option = OPTIONS[name]
    if option.default is not None:
        assert option.parse(option.default) == option.default
    elif name != "connect_timeout":  # None there: what kombu was given
        assert option.parse(None) is None


@pytest.mark.parametrize("name", OPTIONS)
def test_an_object_that_fits_no_option_is_refused_with_half_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^\S.*[^.]$"):
        OPTIONS[name].parse(object())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_is(name: str) -> None:
    assert len(OPTIONS[name].summary) > 10
