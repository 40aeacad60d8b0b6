"""A guard: no test talks to anything but this machine.

Python's audit events see every connection and name look-up of the process, whichever library makes it. The attempt is
refused and also noted, because code under test may well catch what the refusal raises.
"""

import ipaddress
import socket
import sys

attempts: list[str] = []


class OutsideLoopback(RuntimeError):
    """A test tried to reach another machine."""


def install() -> None:
    """Guard this process until it ends (an audit hook cannot be taken out)."""
    sys.addaudithook(_refuse_outside)


def _refuse_outside(event: str, args: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # others are Unix sockets
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or _is_loopback(str(host)):
        return
    if str(host).endswith(".invalid"):
        # Reserved never to exist; answer without asking a name server.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    attempts.append(f"{event} {host}")
    raise OutsideLoopback(f"{event} {host}: tests stay on loopback")


def _is_loopback(host: str) -> bool:
    if host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
