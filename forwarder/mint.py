"""Ids and time, handed to the translators so that they stay pure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple


class Mint(NamedTuple):
    """Where new ids and the current time come from.

    ``id("msg")`` gives ``msg_`` and 32 unguessable hex digits; ``now()`` gives Unix seconds.
    """

    id: Callable[[str], str]
    now: Callable[[], int]


def random_id(prefix: str) -> str:
    """``prefix``, an underscore and 128 random bits in hex."""
    return f"{prefix}_{os.urandom(16).hex()}"


MINT = Mint(id=random_id, now=lambda: int(time.time()))
