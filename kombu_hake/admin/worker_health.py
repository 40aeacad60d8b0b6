"""The health file of a worker on this machine, found by the settings of its app."""

from __future__ import annotations

from typing import Any

from kombu_hake import health as files
from kombu_hake.exceptions import ConfigurationError

__all__ = ["health"]


def health(app: Any, path: str | None = None, *, node: str | None = None) -> files.Health:
    """Read the health file of a worker on this machine. Does not connect.

    Args:
        path: Of the file; default: the option ``health_file`` of the app.
        node: Name of the worker, such as ``w1@%h``, for a path with ``%h`` or ``%n``; default: that of a worker without
            ``-n``.
    Raises:
        ConfigurationError: The app has no ``health_file``.
        FileNotFoundError: The worker has not started, has stopped, or writes another path.
        OSError: The file cannot be read.
        ValueError: It is not a health file.
    """
    if path is None:
        path = _configured(app, node)
    return files.read(path)


def _configured(app: Any, node: str | None) -> str:
    from celery.utils.nodenames import default_nodename, host_format, node_format

    with app.connection_for_read() as connection:
        transport = connection.transport
        if transport.driver_type != "hake":
            raise ConfigurationError(
                f"This app's broker is {connection.as_uri()}; health_file is an option of hake://."
            )
        path = transport.load_settings().health_file
    if path is None:
        raise ConfigurationError("The app has no option health_file. Set it, or give the path of a file.")
    return str(node_format(path, host_format(default_nodename(node))))  # as a worker does with -n
