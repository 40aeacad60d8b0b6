"""Hostile input: messages, documents and answers that no well-meaning publisher sends, against the package.

``corpus`` holds the messages, ``arena`` a real worker that gets them, ``judging`` what counts as a fault. The test
modules run a selection; ``python -m hostile.campaign --help`` in ``tests/`` runs all of it.
"""
