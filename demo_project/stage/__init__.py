"""Staging of the demo: everything a reader of the shop's own code can ignore.

``python -m stage`` starts an embedded AWS, one real Celery worker per group, and a storefront process that places
orders; then it counts who ran what. Nothing is left running, whichever way it ends.
"""
