"""Probe requests."""

from __future__ import annotations

from forwarder.core.translation_context import LossReport
from forwarder.providers import PROFILES
from forwarder.providers.adapt import adapt_request
from forwarder.providers.quirk_probe_requests import (
    PROBES,
    diff_profiles,
    make_openai_profile,
    make_probe_request,
)
from tests.fake_provider import check_chat
from tests.helpers.check_cases import check_each


@check_each("question", PROBES)
@check_each("provider", ["generic", "mistral"])
def test_probe_request_is_not_adapted(question: str, provider: str) -> None:
    loss_report = LossReport()
    body = adapt_request(
        make_probe_request(question, "m"),
        "chat",
        make_openai_profile(PROFILES[provider]),
        loss_report,
    )
    assert check_chat(body) == []
    assert PROBES[question].keys() <= body.keys()
    assert loss_report.losses == {}


def test_diff_profiles() -> None:
    for profile in PROFILES.values():
        assert diff_profiles(profile, profile) == {}
    assert diff_profiles(make_openai_profile(PROFILES["openai"]), PROFILES["openai"]) == {}
    changes = diff_profiles(make_openai_profile(PROFILES["generic"]), PROFILES["generic"])
    assert changes["developer_role"] == "developer"
