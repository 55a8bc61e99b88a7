"""Usage that no upstream reports: estimated for an answer that was cut, added up for several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.types import Json

BYTES_PER_TOKEN = 4
"""A rule of thumb for the vocabularies in use: four letters of English, a good character of
Chinese (three bytes)."""


class EstimatedUsage(Json):
    """A usage that nobody has reported: an exact one goes before it."""


def estimate_usage(request: Json, texts: Iterable[str]) -> EstimatedUsage:
    """The usage of an answer to ``request`` in which the model has ``texts`` these texts."""
    prompt = count_tokens(iterate_texts([request.get("messages"), request.get("tools")]))
    completion = count_tokens(texts)
    return EstimatedUsage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def estimate_tokens(value: Any) -> int:
    """About as many tokens as the strings in a JSON value have."""
    return count_tokens(iterate_texts(value))


def count_tokens(texts: Iterable[str]) -> int:
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return -(-size // BYTES_PER_TOKEN)


def iterate_texts(value: Any) -> Iterable[str]:
    """Every string in a JSON value, but for data URLs, whose length says nothing."""
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, str) and not inner.startswith("data:"):
            yield inner
        elif isinstance(inner, list):
            left += inner
        elif isinstance(inner, dict):
            left += inner.values()


def sum_usages(usages: list[Json], prompts: bool) -> Json:
    """The usages added up; without ``prompts`` the prompt counts once, as with ``n``."""
    exact = (usage for usage in usages if not isinstance(usage, EstimatedUsage))
    total = dict(next(exact, usages[0]))
    for key in ("prompt", "completion") if prompts else ("completion",):
        total[f"{key}_tokens"] = sum(read_count(u, f"{key}_tokens") for u in usages)
        details = [u.get(f"{key}_tokens_details") or {} for u in usages]
        if any(details):
            names = dict.fromkeys(name for d in details for name in d)
            total[f"{key}_tokens_details"] = {
                n: sum(read_count(d, n) for d in details) for n in names
            }
    return with_total(total)


def cap_usage(usage: Json, limit: int) -> Json:
    """The usage as it would have been had the model stopped at ``limit`` tokens."""
    completion = min(read_count(usage, "completion_tokens"), limit)
    details = usage.get("completion_tokens_details")
    cut = {"completion_tokens": completion}
    if details:
        inner = {name: min(read_count(details, name), completion) for name in details}
        return with_total({**usage, **cut, "completion_tokens_details": inner})
    return with_total({**usage, **cut})


def with_total(usage: Json) -> Json:
    total = read_count(usage, "prompt_tokens") + read_count(usage, "completion_tokens")
    return {**usage, "total_tokens": total}


def read_count(counts: Json, name: str) -> int:
    value = counts.get(name)
    return value if type(value) is int else 0
