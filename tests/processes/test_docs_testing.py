"""The examples in docs/testing.md run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

SHOP = """
from celery import Celery

app = Celery("shop", broker="hake://shop.invalid:1")


@app.task(name="handle_order")
def handle_order(number): ...
"""

SHOP_TEST = """
from shop.celery import handle_order


def test_order_waits_in_the_queue(hake_aws):
    handle_order.delay(7)
    sqs = hake_aws.client("sqs")
    url = sqs.get_queue_url(QueueName="celery")["QueueUrl"]
    assert sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"] == {
        "ApproximateNumberOfMessages": "1"
    }
"""


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(code: str, tmp_path: Path) -> None:
    if code.startswith("# conftest.py"):
        files = {"conftest.py": code, "shop/__init__.py": "", "shop/celery.py": SHOP, "test_shop.py": SHOP_TEST}
    elif "def test_" in code:
        files = {"test_example.py": code}
    else:
        files = {"example.py": code}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "example.py"] if "example.py" in files else [sys.executable, "-m", "pytest", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
