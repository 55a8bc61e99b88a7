"""The questions of a probe."""

from __future__ import annotations

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.providers import PROFILES
from forwarder.providers.adapt_request import adapt_request
from forwarder.providers.probe import PROBES, diff_profiles, make_openai_profile, make_probe_request
from tests.fake_provider import check_chat


@pytest.mark.parametrize("question", PROBES)
@pytest.mark.parametrize("provider", ["generic", "mistral"])
def test_a_question_is_asked_as_openai_would_be(question: str, provider: str) -> None:
    ledger = LossReport()
    body = adapt_request(
        make_probe_request(question, "m"), "chat", make_openai_profile(PROFILES[provider]), ledger
    )
    assert check_chat(body) == []
    assert PROBES[question].keys() <= body.keys()
    assert ledger.losses == {}


def test_only_what_differs_is_found() -> None:
    for profile in PROFILES.values():
        assert diff_profiles(profile, profile) == {}
    assert diff_profiles(make_openai_profile(PROFILES["openai"]), PROFILES["openai"]) == {}
    changes = diff_profiles(make_openai_profile(PROFILES["generic"]), PROFILES["generic"])
    assert changes["developer_role"] == "developer"
