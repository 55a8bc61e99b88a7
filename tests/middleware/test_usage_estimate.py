"""Estimated and combined usage."""

from __future__ import annotations

import orjson

from forwarder.middleware.usage_estimate import (
    EstimatedUsage,
    cap_usage,
    estimate_usage,
    sum_usages,
)
from forwarder.protocols.token_estimate import estimate_request_tokens
from tests.middleware.chatting import REQUEST, USAGE


def test_usage_is_estimated_from_the_request_and_the_texts() -> None:
    request = {"messages": [{"role": "user", "content": "x" * 36}], "tools": [{"name": "abcd"}]}
    usage = estimate_usage(request, ["y" * 5, "日本"])
    assert usage["prompt_tokens"] == estimate_request_tokens(request) > 11
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3


def test_prompt_counts_once_or_for_each_usage() -> None:
    once, twice = (
        sum_usages([USAGE, USAGE], prompts=False),
        sum_usages([USAGE, USAGE], prompts=True),
    )
    assert (once["prompt_tokens"], once["completion_tokens"], once["total_tokens"]) == (10, 60, 70)
    assert (twice["prompt_tokens"], twice["completion_tokens"], twice["total_tokens"]) == (
        20,
        60,
        80,
    )
    assert once["prompt_tokens_details"] == {"cached_tokens": 4}
    assert twice["prompt_tokens_details"] == {"cached_tokens": 8}
    assert once["completion_tokens_details"] == {"reasoning_tokens": 40}


def test_details_of_a_single_usage_are_kept() -> None:
    without_details = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert sum_usages([without_details, USAGE], prompts=False)["completion_tokens_details"] == {
        "reasoning_tokens": 20
    }
    assert "completion_tokens_details" not in sum_usages(
        [without_details, without_details], prompts=False
    )


def test_sums_and_caps_of_estimates_stay_marked_as_estimates() -> None:
    estimate = estimate_usage(REQUEST, ["x" * 400])

    assert isinstance(sum_usages([estimate, USAGE], prompts=False), EstimatedUsage)
    assert isinstance(cap_usage(estimate, 5), EstimatedUsage)
    assert not isinstance(sum_usages([USAGE, USAGE], prompts=True), EstimatedUsage)
    assert not isinstance(cap_usage(USAGE, 5), EstimatedUsage)


def test_cap_applies_to_details() -> None:
    assert cap_usage(USAGE, 5)["completion_tokens_details"] == {"reasoning_tokens": 5}
    assert cap_usage(USAGE, 5)["total_tokens"] == 15
    assert cap_usage(USAGE, 99) == USAGE


def test_exact_prompt_count_overrides_an_estimate() -> None:
    estimate = estimate_usage(REQUEST, ["x" * 400])
    for usages in ([estimate, USAGE], [USAGE, estimate]):
        total = sum_usages(usages, prompts=False)
        assert total["prompt_tokens"] == USAGE["prompt_tokens"]
        assert total["prompt_tokens_details"] == USAGE["prompt_tokens_details"]
        assert total["completion_tokens"] == 100 + USAGE["completion_tokens"]
        assert total["total_tokens"] == total["prompt_tokens"] + total["completion_tokens"]
    assert (
        sum_usages([estimate, estimate], prompts=False)["prompt_tokens"]
        == estimate["prompt_tokens"]
    )


def test_estimate_serializes_as_json() -> None:
    estimate = estimate_usage(REQUEST, ["abcd"])
    assert orjson.loads(orjson.dumps(estimate)) == estimate
