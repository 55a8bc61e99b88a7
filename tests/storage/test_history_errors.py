"""What stands in front of a request's own input, when something is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, MediaUnavailable, Unsupported, UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage.history_errors import EarlierItems, call_with_earlier_items

GONE = "https://x/gone.png"
OWN: Json = {"role": "user", "content": "and now?"}


def picture(url: str) -> Json:
    return {"type": "input_image", "image_url": url}


def shows(*urls: str) -> Json:
    return {
        "role": "user",
        "content": [{"type": "input_text", "text": "look"}, *map(picture, urls)],
    }


class Asked:
    """A call that can fetch all but some URLs, and keeps what it was asked."""

    def __init__(self, *gone: str) -> None:
        self.gone = gone
        self.inputs: list[list[Any]] = []

    def __call__(self, request: Json) -> EventStream:
        self.inputs.append(request["input"])
        text = str(request["input"])
        missing = [url for url in self.gone if url in text]
        if missing:
            place = next(i for i, item in enumerate(request["input"]) if missing[0] in str(item))
            path = f"input[{place}].content[1].image_url"
            raise MediaUnavailable(f"Invalid value for '{path}': no.", param=path, names=missing)
        return iter([[{"type": "x"}]])


def asked(call: Any, *earlier: Any, own: Json = OWN, strict: bool = False) -> LossReport:
    ledger = LossReport(strict)
    request = {"model": "m", "input": [own]}
    list(
        call_with_earlier_items(
            call, request, EarlierItems(list(earlier), "conversation"), ledger.drop
        )
    )
    return ledger


def test_what_was_earlier_stands_in_front() -> None:
    call = Asked()
    assert asked(call, shows("https://x/a.png")).losses == {}
    assert call.inputs == [[shows("https://x/a.png"), OWN]]


def test_earlier_media_that_are_gone_leave_a_note() -> None:
    document = {"type": "input_file", "file_url": "https://x/gone.pdf"}
    result = {"type": "function_call_output", "call_id": "c", "output": [picture(GONE)]}
    earlier = [shows(GONE, "https://x/a.png"), result, {"role": "user", "content": [document]}]
    call = Asked(GONE, "https://x/gone.pdf")

    ledger = asked(call, *earlier)
    assert [*ledger.losses] == ["conversation.input_file", "conversation.input_image"]
    note = {"type": "input_text", "text": "[image no longer available]"}
    said, got, read, own = call.inputs[-1]
    assert said["content"][1:] == [note, picture("https://x/a.png")]
    assert got == {**result, "output": [note]}
    assert read["content"] == [{"type": "input_text", "text": "[file no longer available]"}]
    assert (own, len(call.inputs)) == (OWN, 2)
    assert earlier[0] == shows(GONE, "https://x/a.png")


def test_so_do_those_that_were_named_by_an_id() -> None:
    given: Json = {"type": "input_image", "file_id": "file-1", "image_url": None}
    call = Asked("file-1")

    ledger = asked(call, {"role": "user", "content": [given]})
    assert [*ledger.losses] == ["conversation.input_image"]
    note = {"type": "input_text", "text": "[image no longer available]"}
    assert call.inputs[-1] == [{"role": "user", "content": [note]}, OWN]


def test_where_nothing_may_be_lost_it_is_refused() -> None:
    call = Asked(GONE)
    with pytest.raises(Unsupported) as refused:
        asked(call, shows(GONE), strict=True)
    assert (refused.value.param, len(call.inputs)) == ("conversation.input_image", 1)


@pytest.mark.parametrize("earlier", [shows("https://x/a.png"), shows(GONE)])
def test_what_the_client_names_now_has_to_be_there(earlier: Json) -> None:
    with pytest.raises(MediaUnavailable) as refused:
        asked(Asked(GONE), {"role": "user", "content": "hi"}, own=shows(GONE))
    assert refused.value.param == "input[0].content[1].image_url"
    assert "'input[0].content[1].image_url'" in refused.value.message
    with pytest.raises(MediaUnavailable):
        asked(Asked(GONE), earlier, own=shows(GONE))


def test_a_screenshot_that_is_gone_has_no_place_for_a_note() -> None:
    shot = {"type": "computer_screenshot", "image_url": GONE}
    with pytest.raises(MediaUnavailable) as refused:
        asked(Asked(GONE), {"type": "computer_call_output", "call_id": "c", "output": shot})
    assert refused.value.param == "conversation"


@pytest.mark.parametrize(
    ("place", "param", "message"),
    [
        (0, "conversation", "In what 'conversation' brings: Wrong: 'item[0].role'."),
        (1, "conversation", "In what 'conversation' brings: Wrong: 'item[1].role'."),
        (2, "input[0].role", "Wrong: 'input[0].role'."),
        (12, "input[10].role", "Wrong: 'input[10].role'."),
    ],
)
@pytest.mark.parametrize("theirs", [True, False])
def test_a_mistake_is_named_where_it_was_made(
    place: int, param: str, message: str, theirs: bool
) -> None:
    path = f"input[{place}].role"
    ours = InvalidRequest(f"Wrong: '{path}'.", param=path)

    def call(request: Json) -> EventStream:
        raise UpstreamRefused(400, ours.make_error_object()) if theirs else ours

    with pytest.raises((InvalidRequest, UpstreamRefused)) as refused:
        asked(call, OWN, OWN)
    assert (refused.value.param, refused.value.message) == (param, message)


def test_what_names_no_place_stays() -> None:
    def call(request: Json) -> EventStream:
        raise InvalidRequest("No 'temperature'.", param="temperature")

    with pytest.raises(InvalidRequest) as refused:
        asked(call, OWN)
    assert (refused.value.param, refused.value.message) == ("temperature", "No 'temperature'.")
