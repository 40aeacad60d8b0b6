"""The query protocol against botocore's serializer and parser."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import parse_qsl, quote_plus
from xml.sax.saxutils import escape

import botocore.loaders
import pytest
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import example, given
from hypothesis import strategies as st

from kombu_hake.aws.query import _quoted, decode, encode

TOPIC = "arn:aws:sns:eu-west-1:111122223333:t"
#: What our envelopes are made of, and what they are not.
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=120) | st.text(
    '{}"\\:,[] +%&;<>=~*-_./\n\t\r\x00\x7fé€😀0aZ', min_size=40, max_size=120
)
_attributes = st.dictionaries(
    st.text("abcXYZ019_.-", min_size=1, max_size=10) | _texts,
    st.fixed_dictionaries({"DataType": st.sampled_from(["String", "String.Array", "Number"]), "StringValue": _texts})
    | st.fixed_dictionaries({"DataType": st.just("Binary"), "BinaryValue": st.binary(min_size=1, max_size=40)}),
    max_size=4,
)
_rest = {"MessageAttributes": _attributes, "MessageGroupId": _texts, "MessageDeduplicationId": _texts}
_publishes = st.fixed_dictionaries({"TopicArn": st.just(TOPIC) | _texts, "Message": _texts}, optional=_rest)
_batches = st.lists(
    st.fixed_dictionaries({"Id": st.integers(0, 9).map(str), "Message": _texts}, optional=_rest),
    min_size=1,
    max_size=10,
).map(lambda entries: {"TopicArn": TOPIC, "PublishBatchRequestEntries": entries})


@functools.cache
def model() -> ServiceModel:
    return ServiceModel(botocore.loaders.create_loader().load_service_model("sns", "service-2"), "sns")


def botocores_form(action: str, params: dict[str, Any]) -> dict[str, str]:
    request = create_serializer("query", include_validation=True).serialize_to_request(
        params, model().operation_model(action)
    )
    return dict(request["body"])


def form(body: bytes) -> dict[str, str]:
    pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@given(_publishes)
def test_a_publish_is_the_form_that_botocore_sends(params: dict[str, Any]) -> None:
    assert form(encode("Publish", params)) == botocores_form("Publish", params)


@given(_batches)
def test_a_batch_is_the_form_that_botocore_sends(params: dict[str, Any]) -> None:
    assert form(encode("PublishBatch", params)) == botocores_form("PublishBatch", params)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | _texts)
@example("%" * 60)
@example("a b" * 30 + "%2B+")
@example("\n" + "x" * 60)
@example("x" * 60 + "\n")
def test_a_text_is_quoted_as_by_the_standard_library(text: str) -> None:
    assert _quoted(text) == quote_plus(text)


@pytest.mark.parametrize("length", [1, 47, 48, 200])
def test_a_lone_surrogate_is_no_text(length: int) -> None:
    with pytest.raises(UnicodeEncodeError):
        encode("Publish", {"TopicArn": TOPIC, "Message": "x" * (length - 1) + "\ud800"})


# --- answers

NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"


def parsed(action: str, body: bytes, status: int = 200) -> Any:
    """What botocore says, or the exception that it raises."""
    shape = model().operation_model(action).output_shape
    try:
        found = create_parser("query").parse({"body": body, "headers": {}, "status_code": status}, shape)
    except Exception as exc:  # of its own, of the XML parser, or KeyError
        return exc
    found.pop("ResponseMetadata", None)
    return found


def response(name: str, result: str, namespace: str | None = NAMESPACE, start: str = "") -> bytes:
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    return (
        f"{start}<{name}Response{xmlns}><{name}Result>{result}</{name}Result>"
        f"<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{name}Response>"
    ).encode()


_xml_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f", "\ufffe", "\uffff"]),
    max_size=40,
)
_starts = st.sampled_from(
    ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-8"?>\n', "\n", "<!-- hello -->"]
)
_namespaces = st.sampled_from([NAMESPACE, None])


@given(message_id=_xml_texts, sequence=st.none() | _xml_texts, namespace=_namespaces, start=_starts)
def test_the_answer_to_a_publish_is_read_as_by_botocore(
    message_id: str, sequence: str | None, namespace: str | None, start: str
) -> None:
    result = f"<MessageId>{escape(message_id)}</MessageId>"
    if sequence is not None:
        result += f"<SequenceNumber>{escape(sequence)}</SequenceNumber>"
    body = response("Publish", result, namespace, start)
    assert decode("Publish", body) == parsed("Publish", body)


_ids = st.integers(0, 20).map(str)
_done = st.tuples(_ids, _xml_texts).map(
    lambda pair: f"<member><Id>{pair[0]}</Id><MessageId>{escape(pair[1])}</MessageId></member>"
)
_failed = st.tuples(_ids, _xml_texts, _xml_texts, st.sampled_from(["true", "false", "True", "1", ""])).map(
    lambda item: (
        f"<member><Id>{item[0]}</Id><Code>{escape(item[1])}</Code><Message>{escape(item[2])}</Message>"
        f"<SenderFault>{item[3]}</SenderFault></member>"
    )
)


@given(done=st.lists(_done, max_size=10), failed=st.lists(_failed, max_size=10), namespace=_namespaces, start=_starts)
def test_the_answer_to_a_batch_is_read_as_by_botocore(
    done: list[str], failed: list[str], namespace: str | None, start: str
) -> None:
    body = response(
        "PublishBatch",
        f"<Successful>{''.join(done)}</Successful><Failed>{''.join(failed)}</Failed>",
        namespace,
        start,
    )
    assert decode("PublishBatch", body) == parsed("PublishBatch", body)


@given(code=_xml_texts, message=_xml_texts, namespace=_namespaces, start=_starts)
def test_an_error_is_read_as_by_botocore(code: str, message: str, namespace: str | None, start: str) -> None:
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    body = (
        f"{start}<ErrorResponse{xmlns}><Error><Type>Sender</Type><Code>{escape(code)}</Code>"
        f"<Message>{escape(message)}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    ).encode()
    found, theirs = decode("Publish", body), parsed("Publish", body, 403)
    assert found is not None
    assert found["Error"] == {name: text or "" for name, text in theirs["Error"].items()}


FINE = response("Publish", "<MessageId>m</MessageId>")
BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><PublishResponse><PublishResult><MessageId>&i;</MessageId></PublishResult></PublishResponse>"
)
OTHERS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"OK",
    "JSON": b'{"MessageId": "m"}',
    "HTML": b"<html><body>Sign in</body></html>",
    "truncated": FINE[:-5],
    "two documents": FINE + FINE,
    "another answer": FINE.replace(b"Publish", b"Subscribe"),
    "the answer to a batch": FINE.replace(b"Publish", b"PublishBatch"),
    "without a result": b"<PublishResponse/>",
    "error without an error": b"<ErrorResponse/>",
    "another namespace": response("Publish", "<MessageId>m</MessageId>", "http://example.com/"),
    "entity": b'<!DOCTYPE x [<!ENTITY a "m">]>' + FINE.replace(b">m<", b">&a;<"),
    "external entity": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + FINE.replace(b">m<", b">&a;<"),
    "unknown entity": FINE.replace(b">m<", b">&nbsp;<"),
    "entities without end": BOMB.encode(),
    "entities without end, UTF-16": BOMB.encode("utf-16"),
    "UTF-16": ('<?xml version="1.0" encoding="UTF-16"?>' + FINE.decode()).encode("utf-16"),
    "UTF-32": FINE.decode().encode("utf-32"),
    "other bytes": FINE.replace(b">m<", b">\xff<"),
    "other bytes that are declared": b'<?xml version="1.0" encoding="ISO-8859-1"?>' + FINE.replace(b">m<", b">\xff<"),
    "unknown encoding": b'<?xml version="1.0" encoding="rot13"?>' + FINE.replace(b">m<", b">\xff<"),
    "NUL": FINE.replace(b">m<", b">\x00<"),
    "deep": b"<a>" * 100_000,
    "deep and whole": b"<PublishResponse>" + b"<a>" * 20_000 + b"</a>" * 20_000 + b"</PublishResponse>",
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_not_of_this_protocol(name: str) -> None:
    assert decode("Publish", OTHERS[name]) is None


@given(st.binary(max_size=60) | st.integers(0, len(FINE)).map(lambda at: FINE[:at] + b"<" + FINE[at:]))
def test_no_bytes_raise_anything(body: bytes) -> None:
    decode("Publish", body)
    decode("Publish", FINE.replace(b"<MessageId>m</MessageId>", body))


ODD_RESULTS = [
    "",
    "<MessageId/>",
    "<MessageId><b/></MessageId>",
    "<MessageId>a</MessageId><MessageId>b</MessageId>",
    "<MessageId> m </MessageId>",
    "<Other>x</Other>",
    "<MessageId><![CDATA[<m>]]></MessageId>",
    "<MessageId>a<!-- x -->b</MessageId>",
    "<MessageId>&lt;&#233;&#x20ac;</MessageId>",
]


@pytest.mark.parametrize("result", ODD_RESULTS)
def test_an_odd_result_gives_texts(result: str) -> None:
    found = decode("Publish", response("Publish", result))
    assert found is not None
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(
    "result", ["", "<Successful/>", "<Failed/>", "<Failed>text</Failed>", "<Successful><a/></Successful>"]
)
def test_an_odd_result_of_a_batch_gives_lists(result: str) -> None:
    found = decode("PublishBatch", response("PublishBatch", result))
    assert found is not None
    assert all(isinstance(found[name], list) for name in ("Successful", "Failed"))
