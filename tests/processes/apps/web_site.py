"""A web site that publishes: for gunicorn as ``apps.web_site:application``, for Django's ``runserver`` as a program.

The broker is used while the site is loaded, so before a server forks.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery

from apps.notes import BROKER

celery = Celery("site", broker=BROKER)


@celery.task(name="seen")
def seen(path: str) -> None:
    raise NotImplementedError("Nobody runs it: the test counts the messages.")


def publish(path: str) -> str:
    """Publish, and tell who did."""
    seen.delay(path)
    return f"{os.getpid()} {len([t for t in threading.enumerate() if t.name.startswith('hake')])}"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    text = publish(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


def runserver(port: str) -> None:
    from django.conf import settings
    from django.core.management import execute_from_command_line
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(publish(request.path))

    settings.configure(DEBUG=True, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", USE_TZ=True)
    globals()["urlpatterns"] = [path("", view)]
    execute_from_command_line([sys.argv[0], "runserver", f"127.0.0.1:{port}"])


publish("loaded")
if __name__ == "__main__":
    runserver(sys.argv[1])
