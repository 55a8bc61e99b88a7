"""The questions of a probe."""

from __future__ import annotations

import pytest

from forwarder.profiles import PROFILES
from forwarder.profiles.mends import mend
from forwarder.profiles.probing import QUESTIONS, asking, boldest, found
from forwarder.translate.terms import Ledger
from tests.support import check_chat


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
