"""Limits the stored data that one request may pull in.

A request of a few bytes can refer to large stored data many times: items by reference, a chain of
earlier turns, a conversation.  The request and this data together may not exceed the limits of a
request.  Each use counts.  The data also takes memory of the process's limit for bodies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import orjson

from forwarder.core.body_memory import BodyReservation
from forwarder.core.errors import TooLarge
from forwarder.core.json_lenient import count_values
from forwarder.core.types import Json


class RequestLimits(NamedTuple):
    """The limits of a request: its bytes, and about how many JSON values it holds."""

    max_bytes: int = 64 * 2**20
    max_values: int = 500_000


DEFAULT_REQUEST_LIMITS = RequestLimits()
NO_REQUEST_LIMITS = RequestLimits(sys.maxsize, sys.maxsize)

MAX_SEARCHED_REQUESTS = 4
"""The stored data that may be parsed to find referenced items, in requests of the largest size."""


class StoredDataLimit:
    """Counts the data of one request against its limits.

    Errors name ``param``, the parameter that refers to the data, and begin with ``subject``.
    ``memory`` is a reservation that grows with the data, ``used_bytes`` are counted already.
    """

    def __init__(
        self,
        limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
        param: str | None = None,
        subject: str = "With its history and referenced items, the request",
        memory: BodyReservation | None = None,
        used_bytes: int = 0,
    ) -> None:
        self._limits = limits
        self._param = param
        self._subject = subject
        self._memory = memory
        self._bytes = used_bytes
        self._searched_bytes = 0
        self._commas = 0
        self._values = 0

    def spend(self, data: bytes, times: int = 1) -> None:
        """Count JSON text that becomes part of the request ``times`` times.

        Raises TooLarge, and Overloaded if there is no memory for it now.
        """
        self._count(data, times)
        if self._memory is not None:
            self._memory.add_json(data, times)

    def spend_request(self, request: object) -> None:
        """Count the request itself without reserving memory again.  Raises TooLarge."""
        self._count(orjson.dumps(request), 1)

    def spend_bytes(self, size: int, param: str | None = None) -> None:
        """Count ``size`` bytes of data other than JSON, for ``param``.  Raises as `spend`."""
        self._count_bytes(size, param)
        if self._memory is not None:
            self._memory.grow(size)

    @contextmanager
    def reserve_search(self, data: bytes) -> Iterator[None]:
        """Context manager: reserve memory for JSON text that is parsed to find some items in it.

        Raises TooLarge if one request needs too much such text, Overloaded if there is no memory
        for it now.
        """
        max_bytes = MAX_SEARCHED_REQUESTS * self._limits.max_bytes
        self._searched_bytes += len(data)
        if self._searched_bytes > max_bytes:
            subject = f"The responses with the referenced items have more than {max_bytes} bytes"
            setting = f"{MAX_SEARCHED_REQUESTS} times FORWARDER_MAX_BODY"
            raise TooLarge(f"{subject} (limit: {setting}).", param=self._param)
        if self._memory is None:
            yield
            return
        size, text = self._memory.size, self._memory.text
        self._memory.add_json(data)
        size, text = self._memory.size - size, self._memory.text - text
        try:
            yield
        finally:
            self._memory.grow(-size, -text)

    def _count_bytes(self, size: int, param: str | None = None) -> None:
        max_bytes = self._limits.max_bytes
        self._bytes += size
        if self._bytes > max_bytes:
            problem = f"is larger than {max_bytes} bytes"
            raise self._make_error(problem, "FORWARDER_MAX_BODY", param)

    def _count(self, data: bytes, times: int) -> None:
        max_values = self._limits.max_values
        self._count_bytes(len(data) * times)
        # Counting commas is fast. It overestimates, because strings contain commas too.
        self._commas += data.count(b",") * times
        if self._commas > max_values:
            self._values += count_values(data, max_values) * times
        if self._values > max_values:
            problem = f"holds more than {max_values} JSON values"
            raise self._make_error(problem, "FORWARDER_MAX_JSON_VALUES")

    def spend_value(self, value: object, times: int = 1) -> None:
        """Count a JSON value.  Raises as `spend`."""
        self.spend(orjson.dumps(value), times)

    def _make_error(self, problem: str, setting: str, param: str | None = None) -> TooLarge:
        message = f"{self._subject} {problem} (limit: {setting})."
        return TooLarge(message, param=param or self._param)


def spend_references(limit: StoredDataLimit, names: list[str], values: dict[str, Json]) -> None:
    """Count each repeated reference in ``names``; the caller has counted the first use."""
    uses: dict[str, int] = {}
    for name in names:
        uses[name] = uses.get(name, 0) + 1
    for name, count in uses.items():
        if count > 1 and name in values:
            limit.spend_value(values[name], count - 1)
