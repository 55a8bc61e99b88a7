"""Conversion of images and files by profile and protocol."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from forwarder.core.data_urls import Blob
from forwarder.core.errors import ForwarderError, InvalidRequest, MediaUnavailable, TooLarge
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit
from forwarder.middleware.media.locations import find_media
from forwarder.middleware.media.stage import MAX_FILE_IDS, MediaIO, check_media, with_media
from forwarder.providers import Profile
from tests.helpers.check_cases import check_each

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
PNG_URL = f"data:image/png;base64,{PNG}"
PDF_URL = f"data:application/pdf;base64,{PDF}"
WEB = "https://example.com/a.png"
DOC = "https://example.com/b.pdf"
FETCHABLE = {WEB: Blob(b"\x89PNG\r\n\x1a\n", "image/png", "a.png"),
         DOC: Blob(b"%PDF-1.7", "application/pdf", "b.pdf")}  # fmt: skip

STORED = {"file-1": FETCHABLE[WEB], "file-2": FETCHABLE[DOC]}
"""The files that the upstream stores, by id."""

Json = dict[str, Any]


def read_stored_file(file_id: str, path: str) -> Blob:
    if file_id not in STORED:
        raise InvalidRequest(f"{path}: no such file", param=path)
    return STORED[file_id]


def fail_download(file_id: str, path: str) -> Blob:
    raise AssertionError(path)


class Fetcher:
    """Serves two URLs and records the requests."""

    def __init__(self) -> None:
        self.requested_urls: dict[str, str] = {}

    def fetch(self, paths_by_url: Mapping[str, str]) -> dict[str, Blob]:
        self.requested_urls |= paths_by_url
        for url, path in paths_by_url.items():
            if url not in FETCHABLE:
                raise InvalidRequest("no", param=path)
        return {url: FETCHABLE[url] for url in paths_by_url}


def make_chat_request(part: Json) -> Json:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}


def make_responses_request(part: Json) -> Json:
    return {"input": [{"role": "user", "content": [part]}]}


def apply_policy(
    part: Json,
    over: str = "chat",
    fetcher: Any = None,
    role: str = "user",
    knows_ids: bool = True,
    **profile_fields: Any,
) -> Json:
    """The part that reaches the upstream; its type selects the client's protocol."""
    client = "responses" if part["type"].startswith("input") else "chat"
    request = make_responses_request(part) if client == "responses" else make_chat_request(part)
    (entry,) = next(iter(request.values()))
    entry["role"] = role
    sent: list[Json] = []
    handler = with_media(
        lambda request: iter(sent.append(request) or ()),
        client,
        over,
        Profile("x", **profile_fields),
        MediaIO(
            fetcher and fetcher.fetch,
            lambda blob, path: f"file-of-{blob.name}-{len(blob.data)}",
            read_stored_file,
            knows_ids,
        ),
    )
    list(handler(request))
    (entry,) = next(iter(sent[0].values()))
    result: Json = entry["content"][-1]
    return result


def get_refusal(part: Json, **options: Any) -> tuple[int, str | None]:
    with pytest.raises(ForwarderError) as caught:
        apply_policy(part, **options)
    assert str(caught.value.param) in caught.value.message or caught.value.message == "no"
    return caught.value.status, caught.value.param


def make_image_part(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def input_image(url: str) -> Json:
    return {"type": "input_image", "image_url": url, "detail": "low"}


def make_file_part(**fields: Any) -> Json:
    return {"type": "file", "file": fields}


def input_file(**fields: Any) -> Json:
    return {"type": "input_file", **fields}


MAKE_IMAGE = [make_image_part, input_image]


def test_request_without_media_is_the_same_object() -> None:
    sent: list[Json] = []
    request = make_chat_request({"type": "text", "text": "y"})
    handler = with_media(
        lambda request: iter(sent.append(request) or ()),
        "chat",
        "chat",
        Profile("x"),
        MediaIO(None, str, fail_download, True),
    )
    list(handler(request))

    assert sent[0] is request


# -- images by id ---------------------------------------------------------------------------------


def image_by_id(file_id: Any) -> Json:
    return {"type": "input_image", "file_id": file_id, "detail": "low"}


@check_each("accepted", ["url", "base64"])
def test_image_id_is_inlined_for_chat(accepted: str) -> None:
    assert apply_policy(image_by_id("file-1"), image_url=accepted) == input_image(PNG_URL)


def test_image_id_is_passed_on_to_responses() -> None:
    assert apply_policy(image_by_id("file-1"), over="responses") == image_by_id("file-1")


@check_each("file_id", ["file-2", "../models", "", 5])
def test_invalid_image_or_file_id_is_rejected(file_id: Any) -> None:
    assert get_refusal(image_by_id(file_id)) == (400, "input[0].content[0].file_id")


def test_image_id_is_rejected_if_images_are_not_accepted() -> None:
    assert get_refusal(image_by_id("file-1"), image_url="none") == (400, "input[0].content[0]")


def test_file_id_is_passed_on_inlined_or_uploaded() -> None:
    part = input_file(file_id="file-2")

    assert apply_policy(part) == part
    assert apply_policy(part, over="responses", knows_ids=False) == part
    inlined = apply_policy(part, knows_ids=False)
    assert inlined == input_file(filename="b.pdf", file_data=PDF_URL)
    uploaded = apply_policy(part, knows_ids=False, file="upload")
    assert uploaded == input_file(file_id="file-of-b.pdf-8")


def test_unavailable_file_id_is_passed_on_and_image_id_rejected() -> None:
    part = input_file(file_id="file-3")

    assert apply_policy(part, knows_ids=False) == part
    assert get_refusal(image_by_id("file-3")) == (400, "input[0].content[0].file_id")


def test_repeated_id_is_downloaded_once() -> None:
    downloaded_ids: list[str] = []

    def download(file_id: str, path: str) -> Blob:
        downloaded_ids.append(file_id)
        return STORED[file_id]

    request = {
        "input": [{"role": "user", "content": [image_by_id("file-1"), image_by_id("file-1")]}]
    }
    media_io = MediaIO(None, str, download, True)
    handler = with_media(lambda r: iter(()), "responses", "chat", Profile("x"), media_io)
    list(handler(request))

    assert downloaded_ids == ["file-1"]


@pytest.mark.parametrize(("file_mode", "allowed_uses"), [("inline", 3), ("upload", 3)])
def test_each_use_of_a_file_counts(file_mode: str, allowed_uses: int) -> None:
    data = b"%PDF-" + bytes(745)  # 1000 bytes in Base64
    sent: list[Json] = []
    handler = with_media(
        lambda r: iter(sent.append(r) or ()),
        "responses",
        "chat",
        Profile("x", file=file_mode),
        MediaIO(None, lambda blob, path: "file-9", fail_download, True, lambda name, path: Blob(data, "application/pdf")),
        lambda: StoredDataLimit(RequestLimits(max_bytes=3500), used_bytes=400),
    )  # fmt: skip

    def send_request(uses: int) -> None:
        parts = [{"type": "input_file", "file_id": "file-1"} for _ in range(uses)]
        handler({"input": [{"role": "user", "content": parts}]})

    send_request(allowed_uses)
    assert len(sent) == 1
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY") as caught:
        send_request(200)
    assert caught.value.param == f"input[0].content[{allowed_uses}].file_id"
    assert len(sent) == 1


def test_too_many_ids_are_not_looked_up() -> None:
    downloaded_ids: list[str] = []
    media_io = MediaIO(
        None, str, fail_download, True, lambda name, path: downloaded_ids.append(name)
    )
    handler = with_media(lambda r: iter(()), "responses", "chat", Profile("x"), media_io)
    parts = [image_by_id(f"file-{i}") for i in range(MAX_FILE_IDS + 1)]
    with pytest.raises(InvalidRequest, match="at most 500 file ids") as caught:
        handler({"input": [{"role": "user", "content": parts}]})
    assert caught.value.param == "input[0].content[500].file_id"
    assert downloaded_ids == []


def test_error_names_all_unavailable_images() -> None:
    def download(file_id: str, path: str) -> Blob:
        if file_id in STORED:
            return STORED[file_id]
        raise MediaUnavailable("no", param=path, names={file_id})

    parts = [image_by_id(name) for name in ("file-8", "file-1", "file-9")]
    media_io = MediaIO(None, str, download, True)
    handler = with_media(lambda r: iter(()), "responses", "chat", Profile("x"), media_io)
    with pytest.raises(MediaUnavailable) as caught:
        handler({"input": [{"role": "user", "content": parts}]})

    assert caught.value.names == {"file-8", "file-9"}
    assert caught.value.param == "input[0].content[0].file_id"


# -- images ---------------------------------------------------------------------------------------


@check_each("make", MAKE_IMAGE)
@check_each("url", [WEB, PNG_URL, "oss://bucket/a.png"])
def test_image_url_is_passed_on_if_accepted(make: Any, url: str) -> None:
    assert apply_policy(make(url)) == make(url)


@check_each("make", MAKE_IMAGE)
def test_image_url_is_inlined_if_not_accepted(make: Any) -> None:
    fetcher = Fetcher()

    assert apply_policy(make(WEB), fetcher=fetcher, image_url="base64") == make(PNG_URL)
    assert list(fetcher.requested_urls) == [WEB]


@check_each("make", MAKE_IMAGE)
def test_data_url_is_not_fetched(make: Any) -> None:
    assert apply_policy(make(PNG_URL), image_url="base64") == make(PNG_URL)


def test_data_url_without_a_type_gets_one() -> None:
    assert apply_policy(make_image_part(f"data:;base64,{PNG}")) == make_image_part(PNG_URL)


@check_each(
    ("part", "path"),
    [
        (make_image_part("data:image/png;base64,AAA"), "messages[0].content[1].image_url.url"),
        (make_image_part("data:image/png,AAAA"), "messages[0].content[1].image_url.url"),
        (
            {"type": "image_url", "image_url": "data:image/png,"},
            "messages[0].content[1].image_url",
        ),
        (input_image("data:image/png;base64,?"), "input[0].content[0].image_url"),
        (input_file(file_data="data:a/b;base64,?"), "input[0].content[0].file_data"),
        (make_file_part(file_data="no base64!"), "messages[0].content[1].file.file_data"),
    ],
)
def test_invalid_data_url_is_rejected_with_its_path(part: Json, path: str) -> None:
    assert get_refusal(part) == (400, path)


@check_each(
    ("part", "path"),
    [
        (make_image_part(WEB), "messages[0].content[1].image_url.url"),
        (input_image(WEB), "input[0].content[0].image_url"),
    ],
)
def test_urls_are_not_fetched_without_permission(part: Json, path: str) -> None:
    assert get_refusal(part, image_url="base64") == (400, path)


def test_unfetchable_url_is_rejected_with_its_path() -> None:
    part = input_image("https://example.com/gone.png")

    assert get_refusal(part, image_url="base64", fetcher=Fetcher()) == (
        400,
        "input[0].content[0].image_url",
    )


def test_document_as_image_is_rejected() -> None:
    assert get_refusal(make_image_part(DOC), image_url="base64", fetcher=Fetcher())[0] == 400


@check_each("url", [WEB, PNG_URL])
def test_images_are_rejected_if_not_accepted(url: str) -> None:
    assert get_refusal(input_image(url), image_url="none") == (400, "input[0].content[0]")


def test_tool_images_are_skipped_if_the_profile_drops_them() -> None:
    profile_fields: Json = {"image_url": "none", "tool_image": "drop"}

    assert apply_policy(make_image_part(WEB), role="tool", **profile_fields) == make_image_part(WEB)
    assert get_refusal(make_image_part(WEB), **profile_fields)[0] == 400


# -- files ----------------------------------------------------------------------------------------


def test_file_data_is_passed_on() -> None:
    part = make_file_part(file_data=PDF_URL, filename="a.pdf")

    assert apply_policy(part) == part


@check_each(
    ("part", "expected"),
    [
        (make_file_part(file_data=PDF), make_file_part(file_data=PDF_URL, filename="file.pdf")),
        (
            input_file(file_data=PDF, filename="a.pdf", detail="low"),
            input_file(file_data=PDF_URL, filename="a.pdf", detail="low"),
        ),
    ],
)
def test_bare_base64_becomes_a_data_url(part: Json, expected: Json) -> None:
    assert apply_policy(part) == expected


@check_each(
    ("part", "expected"),
    [
        (
            make_file_part(file_data=PDF_URL, filename="a.pdf"),
            make_file_part(file_id="file-of-a.pdf-8"),
        ),
        (
            input_file(file_data=PDF, filename="a.pdf"),
            input_file(file_id="file-of-a.pdf-8"),
        ),
        (make_file_part(file_id="file-1"), make_file_part(file_id="file-1")),
    ],
)
def test_file_is_uploaded_if_only_ids_are_accepted(part: Json, expected: Json) -> None:
    assert apply_policy(part, file="upload") == expected


@check_each(
    "part", [make_file_part(file_data=PDF), make_file_part(file_id="f"), input_file(file_url=DOC)]
)
def test_files_are_rejected_if_not_accepted(part: Json) -> None:
    assert get_refusal(part, file="none")[0] == 400


def test_file_url_is_passed_on_to_responses() -> None:
    part = input_file(file_url=DOC)

    assert apply_policy(part, over="responses") == part


@check_each(
    ("options", "expected"),
    [
        ({}, input_file(file_data=PDF_URL, filename="b.pdf")),
        ({"file": "upload"}, input_file(file_id="file-of-b.pdf-8")),
        ({"over": "responses", "image_url": "base64"}, input_file(file_data=PDF_URL, filename="b.pdf")),
    ],
)  # fmt: skip
def test_file_url_is_fetched_for_chat(options: Json, expected: Json) -> None:
    assert apply_policy(input_file(file_url=DOC), fetcher=Fetcher(), **options) == expected


def test_repeated_url_is_fetched_once() -> None:
    part = input_image(WEB)
    request = {"input": [{"role": "user", "content": [part, part]}]}
    fetcher, sent = Fetcher(), list[Json]()
    profile = Profile("x", image_url="base64")
    handler = with_media(
        lambda r: iter(sent.append(r) or ()),
        "responses",
        "chat",
        profile,
        MediaIO(fetcher.fetch, str, fail_download, True),
    )
    list(handler(request))

    assert sent[0]["input"][0]["content"] == [input_image(PNG_URL)] * 2
    assert request["input"][0]["content"] == [part, part]


@check_each(
    ("url", "media_type"),
    [
        ("data:text/plain;base64,aGk=", "text/plain"),
        (PDF_URL, "application/pdf"),
        (f"data:;base64,{PDF}", "application/pdf"),
        ("data:application/octet-stream;base64,aGk=", "application/octet-stream"),
    ],
)
def test_image_data_must_be_an_image(url: str, media_type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_policy({"type": "image_url", "image_url": {"url": url}})
    assert caught.value.param == "messages[0].content[1].image_url.url"
    assert media_type in caught.value.message


def test_unspecific_type_is_replaced() -> None:
    part = {
        "type": "image_url",
        "image_url": {"url": f"data:application/octet-stream;base64,{PNG}"},
    }
    assert apply_policy(part)["image_url"]["url"] == PNG_URL
    file = {"type": "input_file", "filename": "a",
            "file_data": f"data:application/octet-stream;base64,{PDF}"}  # fmt: skip
    assert apply_policy(file)["file_data"] == PDF_URL


@check_each(
    ("part", "path"),
    [
        ({"type": "input_image"}, "image_url"),
        ({"type": "input_image", "image_url": "data:oops"}, "image_url"),
        ({"type": "input_image", "file_id": 5}, "file_id"),
        ({"type": "input_file", "filename": "x"}, "file_url"),
        ({"type": "input_file", "file_data": "@"}, "file_data"),
        ({"type": "input_file", "file_data": 5}, "file_data"),
        ({"type": "input_image", "image_url": "https://x/y"}, None),
        ({"type": "input_file", "file_id": "file-1"}, None),
    ],
)
def test_check_media_rejects_invalid_media(part: Json, path: str | None) -> None:
    request: Json = {"input": [{"role": "user", "content": [part]}]}
    [location] = find_media(request, "responses")
    assert location.entry_index == 0
    if path is None:
        check_media(location)
        return
    with pytest.raises(InvalidRequest) as caught:
        check_media(location)
    assert caught.value.param == f"input[0].content[0].{path}"
