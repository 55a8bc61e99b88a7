"""Applies `adapt_request` with a profile that has the given fields."""

from __future__ import annotations

import copy
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import Profile, adapt_request

Json = dict[str, Any]


def adapt(
    body: Json, protocol: str = "chat", loss_report: LossReport | None = None, **fields: Any
) -> Json:
    """Return the adapted body; check that the original is unchanged."""
    before = copy.deepcopy(body)
    profile = Profile("some", **fields)
    adapted = adapt_request(
        {"messages": [], **body} if protocol == "chat" else body,
        protocol,
        profile,
        loss_report or LossReport(),
    )
    assert body == before
    return {name: value for name, value in adapted.items() if name != "messages" or value}


def adapt_messages(*originals: Json, **fields: Any) -> list[Json]:
    adapted: list[Json] = adapt({"messages": list(originals)}, **fields)["messages"]
    return adapted
