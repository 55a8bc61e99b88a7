"""Bodies as a provider with the given knobs takes them."""

from __future__ import annotations

import copy
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import Profile, adapt_request

Json = dict[str, Any]


def mended(
    body: Json, protocol: str = "chat", ledger: LossReport | None = None, **knobs: Any
) -> Json:
    """The body as a provider with these knobs takes it; what was given must stay as it was."""
    before = copy.deepcopy(body)
    profile = Profile("some", **knobs)
    made = adapt_request(
        {"messages": [], **body} if protocol == "chat" else body,
        protocol,
        profile,
        ledger or LossReport(),
    )
    assert body == before
    return {name: value for name, value in made.items() if name != "messages" or value}


def messages(*given: Json, **knobs: Any) -> list[Json]:
    made: list[Json] = mended({"messages": list(given)}, **knobs)["messages"]
    return made
