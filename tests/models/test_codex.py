"""Catalog entries for Codex: their fields and the precedence of their sources."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import Route
from forwarder.models import codex
from forwarder.providers import PROFILES
from tests.helpers.check_cases import check_each

URL = "http://127.0.0.1:9/v1"


def make_entry(
    model: dict[str, Any], provider: str = "generic", protocol: str = "chat", **variables: str
) -> dict[str, Any]:
    """The entry of the model ``m`` of the upstream ``chat``."""
    chat_variables = {f"CHAT_{name}": value for name, value in variables.items()}
    [upstream] = Settings.from_env({"CHAT_BASE_URL": URL, **chat_variables}).upstreams
    route = Route(upstream, protocol, "m")
    return codex.make_entry({"id": "chat/m", **model}, route, PROFILES[provider], 3)


def test_entry_has_all_fields_that_codex_requires() -> None:
    entry = make_entry({})

    assert (entry["slug"], entry["display_name"], entry["priority"]) == ("chat/m", "chat/m", 3)
    assert entry["base_instructions"] == codex.BASE_INSTRUCTIONS
    assert entry["shell_type"] == "shell_command"
    assert entry["apply_patch_tool_type"] == "freeform"
    assert [level["effort"] for level in entry["supported_reasoning_levels"]] == [
        "low",
        "medium",
        "high",
    ]


@check_each("name", ["context_window", "max_model_len", "context_length"])
def test_context_window_is_read_from_the_providers_model_list(name: str) -> None:
    assert make_entry({name: 9000})["context_window"] == 9000


@check_each("value", [None, "9000", 0, True, -1])
def test_invalid_token_counts_are_ignored(value: Any) -> None:
    assert make_entry({"context_length": value})["context_window"] == codex.DEFAULT_CONTEXT_WINDOW


def test_operator_settings_override_the_provider_list() -> None:
    entry = make_entry({"context_length": 9000}, CONTEXT_WINDOW="5000")

    assert (entry["context_window"], entry["max_context_window"]) == (5000, 5000)


def test_last_matching_pattern_wins_per_field() -> None:
    info = (
        '{"*": {"context_window": 7, "priority": 1}, "m": {"context_window": 8},'
        ' "chat/m": {"x": 1}, "other": {"priority": 2}}'
    )

    entry = make_entry({}, CONTEXT_WINDOW="5000", MODEL_INFO=info)

    assert (entry["context_window"], entry["max_context_window"]) == (8, 8)
    assert (entry["priority"], entry["x"]) == (1, 1)


@check_each(
    ("model", "provider", "modalities"),
    [
        ({}, "generic", ["text", "image"]),
        ({}, "deepseek", ["text"]),
        ({"architecture": {"input_modalities": ["text"]}}, "generic", ["text"]),
        ({"architecture": {"input_modalities": ["text", "image"]}}, "generic", ["text", "image"]),
        ({"architecture": "x"}, "generic", ["text", "image"]),
        ({"architecture": {"input_modalities": 1}}, "generic", ["text", "image"]),
    ],
)
def test_image_modality_depends_on_model_and_profile(
    model: dict[str, Any], provider: str, modalities: list[str]
) -> None:
    assert make_entry(model, provider)["input_modalities"] == modalities


@check_each(
    ("name", "provider", "protocol", "expected"),
    [
        ("gpt-6.2-sol", "openai", "responses", "code_mode_only"),
        ("gpt-5.6-luna", "openai", "responses", "code_mode_only"),
        ("gpt-5.5", "openai", "responses", None),
        ("gpt-6.2-sol", "openai", "chat", None),
        ("gpt-6.2-sol", "generic", "responses", None),
    ],
)
def test_code_mode_is_set_for_supporting_models(
    name: str, provider: str, protocol: str, expected: str | None
) -> None:
    [upstream] = Settings.from_env({"CHAT_BASE_URL": URL}).upstreams
    route = Route(upstream, protocol, name)
    entry = codex.make_entry({"id": name}, route, PROFILES[provider], 0)
    assert entry["tool_mode"] == expected


def test_model_reviews_itself_if_the_codex_reviewer_is_not_served() -> None:
    assert make_entry({})["auto_review_model_override"] == "chat/m"
    assert make_entry({}, "openai")["auto_review_model_override"] is None
    [upstream] = Settings.from_env({"CHAT_BASE_URL": URL}).upstreams
    for registered, reviewer in ((False, "chat/codex-auto-review"), (True, "m")):
        route = Route(replace(upstream, registered=registered), "responses", "m")
        entry = codex.make_entry(
            {"id": "m"}, route, PROFILES["openai"], 0, "chat/codex-auto-review"
        )
        assert entry["auto_review_model_override"] == reviewer
    info = '{"m": {"auto_review_model_override": "chat/other"}}'
    assert make_entry({}, MODEL_INFO=info)["auto_review_model_override"] == "chat/other"


def test_entry_supports_tool_search() -> None:
    assert make_entry({})["supports_search_tool"] is True


@pytest.mark.live
def test_digest_is_the_same_in_all_processes() -> None:
    program = (
        "from forwarder.models.codex import digest_settings as d; from forwarder.config.settings import Settings\n"
        "print(d(Settings.from_env({'CHAT_BASE_URL': 'http://127.0.0.1:1/v1', 'CHAT_API': 'both'})))"
    )

    def run(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        return subprocess.check_output([sys.executable, "-c", program], env=environment)

    assert len({run(seed) for seed in "0123"}) == 1


def test_digest_depends_on_settings_but_not_on_keys() -> None:
    def compute_digest(**more: str) -> str:
        return codex.digest_settings(Settings.from_env({"CHAT_BASE_URL": URL, **more}))

    assert compute_digest() == compute_digest(CHAT_API_KEY="sk-other")
    variables = {
        "CHAT_MODEL_INFO": '{"m": {"priority": 1}}',
        "CHAT_MODELS": "fast=m",
        "CHAT_CONTEXT_WINDOW": "5",
        "CHAT_QUIRKS": '{"image_url": "none"}',
        "FORWARDER_DEFAULT_MODEL": "m",
        "FORWARDER_CODEX_HELPER_MODEL": "m",
        "FORWARDER_GROUPS": "quick=chat/m",
    }
    digests = {compute_digest(), *(compute_digest(**{k: v}) for k, v in variables.items())}
    assert len(digests) == len(variables) + 1
    assert compute_digest(FORWARDER_GROUPS="quick=chat/other") not in digests
