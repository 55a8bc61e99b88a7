"""Memory size of JSON values."""

from __future__ import annotations

from sys import getsizeof
from typing import Any


def measure_heap(value: Any) -> int:
    """Return about how many bytes the objects of a parsed JSON value take.

    Keys do not count, because the parser creates each of them once; true, false and null neither.
    """
    size, rest = 0, [value]
    while rest:
        one = rest.pop()
        if one is None or one is True or one is False:
            continue
        size += getsizeof(one)
        if type(one) is dict:
            rest += one.values()
        elif type(one) is list:
            rest += one
    return size
