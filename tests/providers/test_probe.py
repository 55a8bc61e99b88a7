"""The questions of a probe."""

from __future__ import annotations

import pytest

from forwarder.core.translation_context import Ledger
from forwarder.providers import PROFILES
from forwarder.providers.adapt_request import mend
from forwarder.providers.probe import QUESTIONS, asking, boldest, found
from tests.fake_provider import check_chat


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("provider", ["generic", "mistral"])
def test_a_question_is_asked_as_openai_would_be(question: str, provider: str) -> None:
    ledger = Ledger()
    body = mend(asking(question, "m"), "chat", boldest(PROFILES[provider]), ledger)
    assert check_chat(body) == []
    assert QUESTIONS[question].keys() <= body.keys()
    assert ledger.dropped == {}


def test_only_what_differs_is_found() -> None:
    for profile in PROFILES.values():
        assert found(profile, profile) == {}
    assert found(boldest(PROFILES["openai"]), PROFILES["openai"]) == {}
    changes = found(boldest(PROFILES["generic"]), PROFILES["generic"])
    assert changes["developer_role"] == "developer"
