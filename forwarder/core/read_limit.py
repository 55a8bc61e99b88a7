"""How much one request may bring with it from what is stored, each use counted.

A request of a few bytes can name large things many times: items by reference, a chain of earlier
turns, a conversation.  Together with them it may be no larger than any request.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from forwarder.core.errors import TooLarge
from forwarder.core.json_lenient import count_values
from forwarder.core.types import Json


class RequestLimits(NamedTuple):
    """The limits of a request: its bytes, and about how many JSON values it holds."""

    max_bytes: int = 64 * 2**20
    max_values: int = 500_000


DEFAULT_REQUEST_LIMITS = RequestLimits()


class ReadLimit:
    """The limits of one request, and what is left of them.

    ``param`` is the parameter that brings what is read, and ``subject`` what is too large with it.
    """

    def __init__(
        self,
        limits: RequestLimits,
        param: str | None = None,
        subject: str = "With what it continues and refers to, the request",
    ) -> None:
        self._limits = limits
        self._param = param
        self._subject = subject
        self._bytes = 0
        self._commas = 0
        self._values = 0

    def spend(self, data: bytes, times: int = 1) -> None:
        """Count JSON text that becomes a part of the request.  Raises TooLarge."""
        max_bytes, max_values = self._limits
        self._bytes += len(data) * times
        if self._bytes > max_bytes:
            raise self._make_error(f"is larger than {max_bytes} bytes", "FORWARDER_MAX_BODY")
        # Commas are counted fast, and only some of them part values: texts have commas too.
        self._commas += data.count(b",") * times
        if self._commas > max_values:
            self._values += count_values(data, max_values) * times
        if self._values > max_values:
            what = f"holds more than {max_values} JSON values"
            raise self._make_error(what, "FORWARDER_MAX_JSON_VALUES")

    def spend_value(self, value: object, times: int = 1) -> None:
        """Count a value in the same way."""
        self.spend(orjson.dumps(value), times)

    def _make_error(self, what: str, setting: str) -> TooLarge:
        return TooLarge(f"{self._subject} {what} (limit: {setting}).", param=self._param)


def spend_references(limit: ReadLimit, names: list[str], there: dict[str, Json]) -> None:
    """Count what items refer to for each time that it is referred to, after the first."""
    uses: dict[str, int] = {}
    for name in names:
        uses[name] = uses.get(name, 0) + 1
    for name, count in uses.items():
        if count > 1 and name in there:
            limit.spend_value(there[name], count - 1)
