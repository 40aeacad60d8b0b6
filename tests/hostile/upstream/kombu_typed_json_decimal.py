"""Forty bytes of JSON become a number that holds the interpreter for minutes, or takes all memory.

Versions tried
    kombu 5.7.0, Python 3.11.
What happens
    `kombu.utils.json.loads` turns `{"__type__": "decimal", "__value__": "1E+900000000"}` into a `Decimal` of that
    exponent. That is quick; but `int()` of it, which is what a consumer does with a priority, a delay or an
    expiration, and which tasks do with their arguments, writes out a number of 900 million digits, in C, with the
    GIL held: no other thread and no signal handler runs meanwhile. The exponent here is smaller, and is tried in a
    process that is killed after some seconds.
Expected
    A message can't choose how long `int()` takes; `int("9" * 5000)` raises `ValueError` for the same reason.
Suggested change
    In the decoder of "decimal", refuse a value of more than some hundred characters, or with an exponent
    (`value.adjusted()`) beyond, say, 4300 digits: the limit that Python has for `int(str)`.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

import subprocess
import sys

LIMIT_S = 5
SCRIPT = """
from kombu.utils.json import loads
int(loads('{"__type__": "decimal", "__value__": "1E+100000000"}'))
"""

if __name__ == "__main__":
    try:
        done = subprocess.run([sys.executable, "-c", SCRIPT], timeout=LIMIT_S, check=False, capture_output=True)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"REPRODUCED: int() of a number of a message took longer than {LIMIT_S} s") from None
    print(f"OK: ended with {done.returncode}")
