#!/usr/bin/env python3
"""Run the benchmark: set up its tools on first use (``.venv-bench*``, ``.tools``), then hand over to ``bench.suite``.

Needs Python 3.10, and apt for Redis and RabbitMQ (unpacked beside the project, not installed). Standard library only.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    sys.path.insert(0, str(HERE))
    from bench import tools

    python = tools.make_venv()
    tools.make_other_venv()
    tools.install_brokers()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tools.ROOT), str(HERE)]),
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    os.execve(python, [str(python), "-m", "bench.suite", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
