"""Faults on purpose: real publishers and workers on an embedded AWS, behind a proxy that spoils their requests.

``python -m campaign --help`` in ``tests/``, or ``make campaign``, ``make outage`` and ``make soak``.
"""
