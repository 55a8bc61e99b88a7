"""The history parameters of a request."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.protocols.input_items import make_previous_response_error
from forwarder.storage.history_reference import (
    HistoryReference,
    is_background,
    is_stored,
    read_history_reference,
)
from tests.helpers.check_cases import check_each


@check_each(
    ("request_", "reference"),
    [
        ({}, HistoryReference(None, None)),
        ({"previous_response_id": "resp_1"}, HistoryReference("resp_1", None)),
        ({"conversation": "conv_1"}, HistoryReference(None, "conv_1")),
        ({"conversation": {"id": "conv_1"}}, HistoryReference(None, "conv_1")),
    ],
)
def test_reference_is_read(request_: Json, reference: HistoryReference) -> None:
    assert read_history_reference(request_) == reference
    assert reference.is_set == bool(request_)


@check_each(
    ("request_", "param"),
    [
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"conversation": {}}, "conversation.id"),
        ({"conversation": 5}, "conversation"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"background_options": "2h"}, "background_options"),
    ],
)
def test_contradictory_parameters_are_rejected(request_: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_history_reference(request_)
    assert refused.value.param == param


@check_each(("store", "stored"), [(None, True), (True, True), (False, False)])
def test_responses_are_stored_by_default(store: Any, stored: bool) -> None:
    assert is_stored({"store": store}) is stored


def test_responses_are_not_in_the_background_by_default() -> None:
    assert not is_background({})
    assert is_background({"background": True})


@check_each("name", ["r1", "r1" * 2000, {"id": "r1"}])
def test_missing_response_is_named(name: Any) -> None:
    error = make_previous_response_error(name)
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    assert "r1" in error.message
    assert len(error.message) < 300
