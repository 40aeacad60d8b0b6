"""A guard: no test talks to anything but this machine.

Python's audit events see every connection and name look-up of the process, whichever library makes it. The attempt is
refused and also noted, because code under test may well catch what the refusal raises.

The leg on a real account (``aws_leg``) names the three hosts of AWS that it needs; all others stay refused.
"""

import ipaddress
import socket
import sys
from collections.abc import Iterable
from typing import Any

#: 127.0.0.1 as resolvers know it, too.
_AS_AWS = "127.1"
attempts: list[str] = []
_hosts: set[str] = set()
#: What the names of these hosts were resolved to.
_addresses: set[str] = set()


def as_aws(endpoint_url: str) -> str:
    """The same endpoint under an address that the package does not know to be this machine, so that it waits for
    changes to take effect as long as on AWS.
    """
    return endpoint_url.replace("127.0.0.1", _AS_AWS)


class OutsideLoopback(RuntimeError):
    """A test tried to reach another machine."""


def install(hosts: Iterable[str] = ()) -> None:
    """Guard this process until it ends (an audit hook cannot be taken out).

    Args:
        hosts: Names of hosts elsewhere that may be reached all the same.
    """
    _hosts.update(hosts)
    if _hosts:
        _note_addresses()
    sys.addaudithook(_refuse_outside)


def _note_addresses() -> None:
    """A connection is made to an address, so remember those of the hosts."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        found = resolve(host, *args, **kwargs)
        if _text(host) in _hosts:
            _addresses.update(str(each[4][0]) for each in found)
        return found

    socket.getaddrinfo = getaddrinfo


def _refuse_outside(event: str, args: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # others are Unix sockets
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host is None or _is_loopback(_text(host)):
        return
    if _text(host) in (_hosts if event == "socket.getaddrinfo" else _addresses):
        return
    if _text(host).endswith(".invalid"):
        # Reserved never to exist; answer without asking a name server.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    attempts.append(f"{event} {_text(host)}")
    raise OutsideLoopback(f"{event} {_text(host)}: tests stay on loopback")


def _text(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)


def _is_loopback(host: str) -> bool:
    if host in {"", "localhost", _AS_AWS, socket.gethostname()}:
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
