"""No client can make up label values without end."""

from __future__ import annotations

import pytest

from forwarder.config.settings import Settings
from forwarder.observability.metric_labels import Names, models, parameter


def test_what_is_known_is_named_whatever_was_learned() -> None:
    names = Names(["a"], most=1)
    names.label("x")

    assert names.label("a", learn=False) == "a"


def test_no_more_is_learned_than_there_is_room_for() -> None:
    names = Names(most=3)

    labels = {names.label(f"made-up-{i}") for i in range(1000)}

    assert labels == {"made-up-0", "made-up-1", "made-up-2", "other"}
    assert names.label("made-up-1") == "made-up-1"


def test_what_is_not_real_is_not_learned() -> None:
    names = Names()

    assert names.label("typo", learn=False) == "other"
    assert names.label("x" * 129) == "other"
    assert names.label("typo") == "typo"


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_has_a_name_too(nothing: str | None) -> None:
    assert Names().label(nothing) == "none"


def test_the_configuration_spells_out_models() -> None:
    settings = Settings.from_env(
        {
            "CHAT_BASE_URL": "http://x/v1",
            "CHAT_MODELS": "fast=qwen-turbo,qwen-*,m",
            "FORWARDER_DEFAULT_MODEL": "d",
        }
    )

    assert models(settings) == {"qwen-turbo", "m", "d"}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("seed", "seed"),
        ("tools.web_search", "tools"),
        ("reasoning.summary", "reasoning"),
        ("a client made this up", "other"),
        ("made.up", "other"),
        ("options.num_ctx", "options"),
        ("truncate", "truncate"),
    ],
)
def test_only_parameters_of_the_tables_are_labels(name: str, label: str) -> None:
    assert parameter(name) == label
