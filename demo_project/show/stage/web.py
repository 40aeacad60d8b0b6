"""``python -m show.stage.web FD``: the web server, on a listening socket that it inherits."""

import os
import signal
import socket
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request: each viewer holds one for as long as the page is open."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_request(self, *args: object) -> None:
        return


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "show.settings"
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.wsgi import get_wsgi_application

    listening = socket.socket(fileno=int(sys.argv[1]))
    server = Server(listening.getsockname(), Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = listening.getsockname()
    server.setup_environ()
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
