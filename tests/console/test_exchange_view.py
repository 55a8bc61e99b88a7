"""The page of an exchange, made of its record."""

from __future__ import annotations

import json
import time

from forwarder.console.exchange_view import MAX_ATTEMPTS, MAX_IMAGES, build_view, find_images
from tests.console.records import HOSTILE, Json, make_attempt, make_chunk, make_record
from tests.helpers.check_cases import check_each

PNG = "data:image/png;base64,iVBORw0KGgo="


def test_many_attempts_are_bounded() -> None:
    attempts = [make_attempt({"n": number}) for number in range(30)]

    view = build_view(make_record({"model": "m"}, *attempts))

    assert len(view.attempts) == MAX_ATTEMPTS
    assert view.more_attempts == 30 - MAX_ATTEMPTS
    assert view.attempts[-1].number == 30


def test_facts_and_notices_describe_the_exchange() -> None:
    record = make_record(
        {"model": "m"}, left=True, failed=["one", "two"],
        usage={"prompt_tokens": 1200, "completion_tokens": 3},
    )  # fmt: skip
    record["exchange"] |= {"whole": False, "redacted": True, "error": "client_left", "client": "me"}

    view = build_view(record)

    assert {
        "Request": "POST /v1/responses", "Client": "me", "Error": "client_left",
        "Failed upstreams": "one, two", "Input tokens": "1,200", "Output tokens": "3",
    }.items() <= dict(view.facts).items()  # fmt: skip
    assert len(view.notices) == 3
    record["client"]["request"]["body"] = {"model": "m", "user": "***"}
    assert len(build_view(record).notices) == 4


def test_omitted_bodies_are_reported() -> None:
    record = make_record({"model": "m"}, make_attempt({}))
    record["client"]["request"] = {"method": "POST", "path": "/v1/responses", "left_out": 5000}
    record["upstream"][0]["request"] = {"left_out": 7000}

    view = build_view(record)

    assert view.request_text == "[5,000 bytes are left out]"
    assert view.attempts[0].text == "[7,000 bytes are left out]"


@check_each(
    "record",
    [
        {},
        {"exchange": {"route": 5}, "client": [], "upstream": {}, "dropped": 1, "usage": "x"},
        make_record("text"),
        make_record([1, 2]),
        make_record({"options": "x", "format": 1, "think": []}, make_attempt({}), route="ollama"),
        make_record({"text": 5, "input": {}}, make_attempt({"messages": 1})),
        make_record({"max_tokens": "x", "response_format": []}, make_attempt({}, "responses"), route="chat"),
        make_record({"model": "m"}, make_attempt({}, provider="unknown", protocol="other")),
        make_record({"input": "x"}, make_attempt({"input": "x"}, "embeddings"), route="embeddings"),
        make_record({"input": "x"}, make_attempt({"input": "x"}, "compact"), route="compact"),
        make_record({"input": "x"}, make_attempt({}), route="background"),
        make_record({"model": "m"}, {"upstream": None, "request": {"body": [1]}, "error": "text"}),
    ],
    ids=str,
)  # fmt: skip
def test_incomplete_and_malformed_records_are_shown(record: Json) -> None:
    view = build_view(record)

    assert isinstance(view.facts, list)


def test_control_characters_are_escaped_everywhere() -> None:
    body: Json = {HOSTILE: HOSTILE, "input": [{"content": HOSTILE, HOSTILE: 1}]}
    attempt = make_attempt({HOSTILE: {HOSTILE: HOSTILE}}, upstream=HOSTILE, url=HOSTILE)
    attempt["answer"] |= {
        "headers": [[HOSTILE, HOSTILE]],
        "events": [make_chunk(1, content=HOSTILE)],
    }
    attempt["error"] = {"type": HOSTILE, "message": HOSTILE}
    record = make_record(body, attempt, dropped={HOSTILE: HOSTILE}, failed=[HOSTILE])
    record["exchange"] |= {"model": HOSTILE, "error": HOSTILE}

    view = build_view(record)._replace(rows=[])

    assert "\\u202e" in repr(view)
    assert "\u202e" not in json.dumps(view, ensure_ascii=False)


# -- images -----------------------------------------------------------------------------------------


def test_only_images_in_the_record_are_shown() -> None:
    images = find_images(
        [
            {"image_url": PNG},
            {"image_url": {"url": "https://evil.test/pixel.png"}},
            {"image_url": "https://evil.test/other.png"},
            {"url": "data:image/svg+xml;base64,PHN2Zz4="},
            {"url": "data:image/png;base64,[12345 characters left out]"},
            {"type": "image_generation_call", "result": "iVBORw0KGgo="},
        ]
    )

    assert [image.url for image in images] == [PNG, None, None, None, None]
    assert [image.note for image in images[1:3]] == [
        "https://evil.test/pixel.png", "https://evil.test/other.png",
    ]  # fmt: skip


def test_images_are_bounded_in_number_and_size() -> None:
    large = [f"data:image/png;base64,{number:04}" + "A" * 1_200_000 for number in range(4)]
    huge = "data:image/png;base64," + "B" * 2_000_000
    images = [f"data:image/png;base64,{number:04}" for number in range(50)]

    assert [bool(image.url) for image in find_images([large])] == [True, True, False, False]
    assert find_images([huge])[0].url is None
    assert len(find_images([images])) == MAX_IMAGES + 1


def test_view_of_a_record_of_two_megabytes_is_fast_and_small() -> None:
    messages = [{"role": "user", "content": f"{number} " + "x" * 900} for number in range(1000)]
    request: Json = {"model": "m", "messages": messages, "user": HOSTILE * 1000}
    attempt = make_attempt({**request, "extra": messages}, "chat")
    attempt["answer"]["events"] = [make_chunk(float(at), content="word ") for at in range(5000)]
    record = make_record(request, attempt, route="chat")
    started_at = time.process_time()

    view = build_view(record)

    assert time.process_time() - started_at < 2
    assert len(view.rows) < 10
    assert len(json.dumps(view._replace(rows=[]))) < 1_500_000
