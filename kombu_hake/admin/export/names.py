"""Identifiers of resources in templates: legal, stable, and different for different resources. Pure."""

from __future__ import annotations

import hashlib
import re

from kombu_hake.amqp import FIFO_SUFFIX

__all__ = ["logical_id", "terraform_name", "terraform_pair"]

#: 60 bits: with the thousands of names of an account, no two will ever be the same.
_DIGEST_CHARS = 15
#: CloudFormation allows 255.
_MAX_WORDS_CHARS = 120
_STARTS_LIKE_A_NAME = re.compile(r"[A-Za-z]")
_WORD = re.compile(r"[A-Za-z0-9]+")


def terraform_name(physical: str) -> str:
    """The name of the resource of a queue or topic, from its name in AWS, which it mostly is.

    Terraform takes letters, digits, ``_`` and ``-``, but no digit or ``-`` at the start, and not the dot of ``.fifo``.
    """
    if physical.endswith(FIFO_SUFFIX):
        return f"_fifo_{physical.removesuffix(FIFO_SUFFIX)}"
    return physical if _STARTS_LIKE_A_NAME.match(physical) else f"_{physical}"


def terraform_pair(topic: str, queue: str) -> str:
    """The name of the resource of a subscription, from the names of its topic and its queue in AWS."""
    return f"{terraform_name(topic)}--{terraform_name(queue)}--{_digest(topic, queue)}"


def logical_id(kind: str, *names: str) -> str:
    """A logical id of CloudFormation, of letters and digits: the kind, the words of *names*, and a digest of both."""
    words = "".join(word[:1].upper() + word[1:] for name in names for word in _WORD.findall(name))
    return f"{kind}{words[:_MAX_WORDS_CHARS]}{_digest(kind, *names)}"


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:_DIGEST_CHARS]
