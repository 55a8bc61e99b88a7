"""Estimates the usage of cut answers and adds up the usage of several answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.protocols.token_estimate import estimate_request_tokens, sum_text_tokens
from forwarder.translation import messages_over_chat


class EstimatedUsage(Json):
    """A usage that the forwarder estimated; a usage reported by an upstream is preferred."""


def estimate_usage(request: Json, texts: Iterable[str]) -> EstimatedUsage:
    """Estimate the usage of an answer to ``request`` that consists of ``texts``."""
    prompt, completion = estimate_request_tokens(request), sum_text_tokens(texts)
    return EstimatedUsage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def estimate_message_input(request: Json, loss_report: LossReport) -> int:
    """Estimate the input tokens of a Messages request, which needs no ``max_tokens``.

    Raises InvalidRequest for malformed parameters, Unsupported for those without a translation.
    """
    context = TranslationContext(
        ID_SOURCE, loss_report, encrypt=str, decrypt=lambda sealed: None, web_search=True
    )
    # An answer would need a limit; the input does not.
    translated = messages_over_chat.translate_request({"max_tokens": 1, **request}, context)
    return estimate_request_tokens(translated.upstream_request)


def sum_usages(usages: list[Json], prompts: bool) -> Json:
    """Add up usages; without ``prompts`` the prompt counts only once, as with ``n``.

    The sum is an `EstimatedUsage` if a part of it is.
    """
    exact = (usage for usage in usages if not isinstance(usage, EstimatedUsage))
    is_estimated = any(isinstance(usage, EstimatedUsage) for usage in usages)
    first = next(exact, usages[0])
    total = EstimatedUsage(first) if is_estimated else dict(first)
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
    """Return the usage with completion tokens and their details limited to ``limit``."""
    completion = min(read_count(usage, "completion_tokens"), limit)
    capped = copy_usage(usage, completion_tokens=completion)
    details = usage.get("completion_tokens_details")
    if details:
        capped["completion_tokens_details"] = {
            name: min(read_count(details, name), completion) for name in details
        }
    return with_total(capped)


def with_total(usage: Json) -> Json:
    total = read_count(usage, "prompt_tokens") + read_count(usage, "completion_tokens")
    return copy_usage(usage, total_tokens=total)


def copy_usage(usage: Json, **changes: Any) -> Json:
    """Return a copy with changes, which is an `EstimatedUsage` if ``usage`` is one."""
    copy: Json = EstimatedUsage(usage) if isinstance(usage, EstimatedUsage) else dict(usage)
    copy.update(changes)
    return copy


def read_count(counts: Json, name: str) -> int:
    value = counts.get(name)
    return value if type(value) is int else 0
