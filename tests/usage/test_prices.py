"""Prices of models."""

from __future__ import annotations

import pytest

from forwarder.config.settings import Settings
from forwarder.storage.db.usage import UsageCounts
from forwarder.usage.prices import PriceTable, load_shipped_prices
from tests.helpers.check_cases import check_each

TOKENS = UsageCounts(input_tokens=3_000_000, cached_tokens=1_000_000, output_tokens=500_000)


def make_table(**environment: str) -> PriceTable:
    return PriceTable(
        Settings.from_env(
            {
                "CHAT_BASE_URL": "http://up.test/v1",
                "CHAT_MODELS": "fast=gpt-4o,*",
                **environment,
            }
        )
    )


def test_cost_has_a_price_for_each_kind_of_token() -> None:
    table = make_table(FORWARDER_PRICES="m=1/0.25/8")

    assert table.compute_cost("m", "chat", TOKENS) == pytest.approx(2 * 1 + 0.25 + 0.5 * 8)
    assert table.compute_cost("m", "chat", UsageCounts(requests=1)) == 0
    assert table.compute_cost("n", "chat", TOKENS) is None


def test_cost_is_never_negative() -> None:
    counts = UsageCounts(input_tokens=1, cached_tokens=5)

    assert make_table(FORWARDER_PRICES="m=1/0/0").compute_cost("m", "chat", counts) == 0


@check_each(
    ("model", "price"),
    [
        ("gpt-4o-mini-2024-07-18", 3),  # the longest pattern of the settings
        ("gpt-4o-mini", 3),
        ("gpt-4o-2024-11-20", 1),
        ("gpt-4o", 1),
        ("chat/special", 7),
        ("special", 7),
        ("fast", 1),  # an alias
        ("chat/fast", 1),
        ("o3", 2.0),  # a built-in price
        ("o3-audio", None),
    ],
)
def test_price_of_the_settings_and_of_the_longest_pattern_wins(
    model: str, price: float | None
) -> None:
    table = make_table(FORWARDER_PRICES="gpt-4o*=1/1/1,gpt-4o-mini*=3/3/3,chat/special=7/7/7")
    model_price = table.find_price(model, "chat")

    assert (model_price and model_price.input) == price
    assert table.find_price("special", "elsewhere") is None


@check_each(
    ("model", "price"),
    [
        ("claude-sonnet", 2),
        ("chat/claude-sonnet", 2),
        ("claude-sonnet:latest", 2),
        ("fast:latest", 1),
        ("gpt-4o:latest", 1),
        ("team", 2),
        ("team:latest", 2),
        ("both", None),  # it has two models of this upstream
    ],
)
def test_pattern_aliases_tags_and_groups_have_the_price_of_the_upstreams_model(
    model: str, price: float | None
) -> None:
    table = make_table(
        CHAT_MODELS="fast=gpt-4o,claude-*=qwen-plus",
        FORWARDER_GROUPS="team=chat/claude-x;both=chat/gpt-4o,chat/qwen-plus",
        FORWARDER_PRICES="gpt-4o=1/1/1,qwen-plus=2/2/2",
    )
    found = table.find_price(model, "chat")

    assert (found and found.input) == price


def test_shipped_prices_are_plausible() -> None:
    prices = load_shipped_prices()

    assert {"gpt-4o", "gpt-5", "text-embedding-3-small"} <= prices.keys()
    for price in prices.values():
        assert 0 < price.cached <= price.input < 100
        assert 0 <= price.output < 1000
