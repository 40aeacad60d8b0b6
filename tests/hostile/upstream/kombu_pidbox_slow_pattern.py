"""A command of remote control freezes each worker with a regular expression that takes for ever to match.

Versions tried
    kombu 5.7.0, Celery 5.7.0, Python 3.11; broker memory://.
What happens
    `kombu.pidbox.Node.handle_message` calls `match(hostname, pattern, matcher)` with `pattern` and `matcher` as they
    are in the message. With the matcher `pcre` and the pattern `(.|.)*!` the time doubles with each character of the
    host name: seconds for 22 characters, years for 60. The main process of a Celery worker does this in its event
    loop, and holds the interpreter meanwhile: no task, no heartbeat, no SIGTERM is handled.
Expected
    A command cannot take an unbounded time to be matched.
Suggested change
    Offer `glob` only for patterns that come from a message, or let applications say which matchers may be used.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

import signal

from kombu import Connection
from kombu.pidbox import Mailbox

LIMIT_S = 5


def give_up(*_args: object) -> None:
    raise SystemExit(f"REPRODUCED: matching a command with a host name took longer than {LIMIT_S} s")


if __name__ == "__main__":
    with Connection("memory://") as connection:
        channel = connection.channel()
        hostname = "celery@web-5d8f7c9b6d-x2x4z.example"
        node = Mailbox("demo")(connection).Node(hostname, handlers={"ping": lambda state: "pong"}, channel=channel)
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(LIMIT_S)
        node.handle_message({"method": "ping", "arguments": {}, "pattern": "(.|.)*!", "matcher": "pcre"})
        signal.alarm(0)
