"""How long the hot calls of SQS wait, and what their connections find out by themselves."""

import socket

import pytest
from fakes import make_settings

from kombu_hake.aws.http import _socket_options
from kombu_hake.aws.wire import read_timeout_s


@pytest.mark.parametrize(
    ("read_timeout", "wait", "expected"), [(15, 20, 25), (15, 0, 15), (15, 1, 15), (2, 3, 5), (2, 20, 22), (60, 20, 60)]
)
def test_a_long_poll_may_be_answered_a_little_late(read_timeout: float, wait: float, expected: float) -> None:
    assert read_timeout_s(make_settings(read_timeout=read_timeout), wait) == expected


def test_dead_connections_are_noticed_before_they_are_used() -> None:
    with socket.socket() as connection:
        for option in _socket_options():
            connection.setsockopt(*option)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8_000
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 4
