"""The control channel: how the web server asks the process that owns the workers to do something with them.

HTTP on loopback. Both ends know a token that no other user of the machine does.
"""

import hmac
import json
import os
import queue
import secrets
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from show.stage.loopback import Refused

URL_VARIABLE, TOKEN_VARIABLE = "STAGE_CONTROL_URL", "STAGE_CONTROL_TOKEN"
ANSWER_WITHIN_S = 10.0


class Command:
    """Something that the owner is asked to do."""

    def __init__(self, action: str, group: str) -> None:
        self.action, self.group = action, group
        self.said: Future[str] = Future()


class Channel:
    """The owner's end. Its threads only pass on: commands wait in a queue, the owner's own thread carries them out."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        #: What the owner last said about itself; replaced as a whole.
        self.state: dict[str, Any] = {}

    def answer(self, path: str, headers: Any, body: dict[str, Any]) -> dict[str, Any]:
        """Raises: Refused."""
        if not hmac.compare_digest(headers.get("X-Token", ""), self.token):
            raise Refused(403, "wrong token")
        if path == "/state":
            return self.state
        command = Command(str(body.get("action")), str(body.get("group")))
        self._commands.put(command)
        try:
            return {"said": command.said.result(ANSWER_WITHIN_S)}
        except NotYet as exc:
            raise Refused(504, "the stage is busy, try again") from exc

    def next(self) -> Command | None:
        """The next command, if there is one."""
        try:
            return self._commands.get_nowait()
        except queue.Empty:
            return None


def ask(path: str, **body: str) -> dict[str, Any]:
    """The web server's end.

    Raises:
        Refused: with the reason, to be shown.
    """
    data = json.dumps(body).encode() if body else None
    request = Request(os.environ[URL_VARIABLE] + path, data, {"X-Token": os.environ[TOKEN_VARIABLE]})
    try:
        with urlopen(request, timeout=ANSWER_WITHIN_S + 5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except HTTPError as exc:
        raise Refused(exc.code, str(exc.reason)) from exc
    except (OSError, HTTPException) as exc:
        raise Refused(502, f"the stage does not answer: {exc}") from exc
