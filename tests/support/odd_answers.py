"""Answers that AWS never gives: those of proxies, captive portals, other servers and broken middleboxes.

``ODD`` is name to HTTP message. Use them with the proxy, ``Rule("odd", action, odd=name)``, or with a server by hand
(``message.head + message.body``).
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from .aws_wire import JSON_TYPE
from .proxy_http import BLANK_LINE, Message, response

PORTAL = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Sign in to the guest network</h1>"
    b"<p>\x1b[31mAccessDenied</p></body></html>"
)
XHTML = (
    b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>'
    b"<Error>no</Error></body></html>"
)
MESSAGE: dict[str, Any] = {"MessageId": "m", "ReceiptHandle": "r", "MD5OfBody": "x", "Body": "b", "Attributes": {}}
HUGE_BYTES = 66 * 1024 * 1024


def _html(status: int, **headers: str) -> Message:
    return response(status, "text/html", PORTAL, **headers)


def _json(status: int, value: Any) -> Message:
    return response(status, JSON_TYPE, json.dumps(value).encode())


#: Wrong whatever was asked, with a status that says that it went well or did not.
ODD: dict[str, Message] = {
    "html_200": _html(200),
    "html_302": _html(302, Location="http://169.254.0.1/portal"),
    "html_400": _html(400),
    "html_403": _html(403),
    "html_404": _html(404),
    "html_407": _html(407, Proxy_Authenticate='Basic realm="proxy"'),
    "html_413": _html(413),
    "html_502": _html(502),
    "xhtml_200": response(200, "text/xml", XHTML),
    "xhtml_403": response(403, "text/xml", XHTML),
    "xhtml_404": response(404, "text/xml", XHTML),
    "empty_302": response(302, "text/plain", b"", Location="http://169.254.0.1/"),
    "empty_400": response(400, "text/plain", b""),
    "empty_403": response(403, "text/plain", b""),
    "empty_404": response(404, "text/plain", b""),
    "text_200": response(200, "text/plain", b"OK"),
    "json_400_without_code": _json(400, {"message": "Bad Request"}),
    "json_403_without_code": _json(403, {"message": "Forbidden"}),
    "json_404_list": _json(404, [1, 2]),
    "json_403_code_of_wrong_type": _json(403, {"__type": {"a": 1}, "message": ["AccessDenied"]}),
    "json_400_number": _json(400, 7),
    "json_200_list": _json(200, [{"QueueUrl": "x"}]),
    "json_200_text": _json(200, "ok"),
    "json_200_null": _json(200, None),
    "json_200_truncated": response(200, JSON_TYPE, b'{"Messages": [{"MessageId": "m", "Rece'),
    "json_200_deep": response(200, JSON_TYPE, b'{"a":' * 50_000),
    "json_200_not_utf8": response(200, JSON_TYPE, b'{"a": "\xff\xfe"}'),
    "xml_200_truncated": response(200, "text/xml", b"<PublishResponse><PublishResult><MessageId>m</Mess"),
    "xml_403_truncated": response(403, "text/xml", b"<ErrorResponse><Error><Code>AccessDenied</Co"),
    "gzip_200": response(200, JSON_TYPE, gzip.compress(b'{"MessageId": "m"}'), Content_Encoding="gzip"),
    "gzip_200_garbage": response(200, JSON_TYPE, b"\x1f\x8b\x08\x00garbage", Content_Encoding="gzip"),
    "bad_status_line": Message(b"HTTP/1.1 teapot" + BLANK_LINE, b""),
    "bad_length": Message(b"HTTP/1.1 200 OK\r\nContent-Length: many" + BLANK_LINE, b"{}"),
    "ssh_banner": Message(b"SSH-2.0-OpenSSH_9.6\r\n", b""),
}

#: Wrong shapes of a successful ReceiveMessage.
ODD_RECEIVES: dict[str, Any] = {
    "messages_object": {"Messages": {"a": 1}},
    "messages_text": {"Messages": "none"},
    "message_number": {"Messages": [1]},
    "message_null": {"Messages": [None]},
    "message_empty": {"Messages": [{}]},
    "no_handle": {"Messages": [{name: value for name, value in MESSAGE.items() if name != "ReceiptHandle"}]},
    "no_body": {"Messages": [{name: value for name, value in MESSAGE.items() if name != "Body"}]},
    "no_id": {"Messages": [{name: value for name, value in MESSAGE.items() if name != "MessageId"}]},
    "body_object": {"Messages": [{**MESSAGE, "Body": {}}]},
    "handle_number": {"Messages": [{**MESSAGE, "ReceiptHandle": 5}]},
    "attributes_list": {"Messages": [{**MESSAGE, "Attributes": [1]}]},
    "count_object": {"Messages": [{**MESSAGE, "Attributes": {"ApproximateReceiveCount": {}}}]},
    "count_words": {"Messages": [{**MESSAGE, "Attributes": {"ApproximateReceiveCount": "many"}}]},
    "sent_exponent": {"Messages": [{**MESSAGE, "Attributes": {"SentTimestamp": "1E+9000000"}}]},
    "message_attributes_text": {"Messages": [{**MESSAGE, "MessageAttributes": "x"}]},
    "message_attribute_number": {"Messages": [{**MESSAGE, "MessageAttributes": {"a": 1}}]},
    "too_many": {"Messages": [MESSAGE] * 50},
}
ODD |= {f"receive_{name}": _json(200, value) for name, value in ODD_RECEIVES.items()}
#: Large enough to be refused for its size; kept apart, for it takes a second to read.
HUGE = response(200, JSON_TYPE, b'{"Messages":"' + b"x" * HUGE_BYTES + b'"}')
