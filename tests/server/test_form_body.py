"""Forms: files on disk, fields within the memory for bodies."""

from __future__ import annotations

from io import BytesIO

import httpx2
from flask import Flask

from forwarder.core.body_memory import BodyReservation
from forwarder.core.form_disk_limit import FormDiskLimit, FormDiskReservation
from forwarder.server.extension import get_extension
from forwarder.server.form_body import MAX_FORM_PARTS, FormFile
from tests.server.conftest import Serve

IMAGE = b"\x89PNG" + bytes(20_000)


def answer_created(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"fields": len(request.read())})


def test_only_fields_of_a_form_take_memory(serve: Serve) -> None:
    used: list[int] = []

    def record_memory(request: httpx2.Request) -> httpx2.Response:
        used.append(memory.used)
        return answer_created(request)

    client = serve(record_memory)
    memory = get_extension(client.application).services.body_memory
    images = [(BytesIO(IMAGE), f"{i}.png") for i in range(16)]
    form = {"model": "m", "prompt": "x" * 80_000, "image[]": images}
    got = client.post("/v1/images/edits", data=form)

    assert got.status_code == 200
    assert got.get_json()["fields"] > 16 * len(IMAGE) + 80_000
    [size] = used
    assert 2 * 80_000 <= size < 2 * 90_000
    got.close()
    assert memory.used == 0


def test_a_form_without_memory_for_its_fields_is_refused(serve: Serve) -> None:
    client = serve(answer_created)
    memory = get_extension(client.application).services.body_memory
    BodyReservation(memory).hold(memory.max_bytes // 2)
    got = client.post(
        "/v1/images/edits", data={"prompt": "x" * 80_000}, content_type="multipart/form-data"
    )

    assert got.status_code == 503
    assert "FORWARDER_MAX_BODY_MEMORY" in got.get_json()["error"]["message"]


def test_a_form_has_a_bounded_number_of_parts(serve: Serve) -> None:
    got = serve(answer_created).post(
        "/v1/images/edits",
        data={f"f{i}": "x" for i in range(MAX_FORM_PARTS + 1)},
        content_type="multipart/form-data",
    )
    assert got.status_code == 413


def test_a_file_is_on_disk_from_its_first_byte(serve: Serve) -> None:
    app: Flask = serve(answer_created).application
    reservation = BodyReservation(get_extension(app).services.body_memory)
    reservation.grow(5)
    with FormFile(reservation, FormDiskReservation(FormDiskLimit(100))) as file:
        file.write(b"hello")
        assert file._rolled  # type: ignore[attr-defined]
        file.seek(0)
        assert file.read() == b"hello"
    assert reservation.size == 0


def test_the_files_of_all_forms_have_a_limit(serve: Serve) -> None:
    used: list[int] = []

    def record_memory(request: httpx2.Request) -> httpx2.Response:
        used.append(disk.used)
        return answer_created(request)

    client = serve(record_memory)
    disk = get_extension(client.application).services.form_disk

    def send() -> tuple[int, str]:
        form = {"model": "m", "image[]": [(BytesIO(IMAGE), f"{i}.png") for i in range(4)]}
        got = client.post("/v1/images/edits", data=form)
        text = got.get_data(as_text=True)
        got.close()
        return got.status_code, text

    assert send()[0] == 200
    assert used == [4 * len(IMAGE)]
    assert disk.used == 0
    other = FormDiskReservation(disk)
    other.take(disk.max_bytes - 2 * len(IMAGE))
    status, text = send()
    assert status == 503
    assert "FORWARDER_MAX_FORM_FILES" in text
    other.release()
    assert disk.used == 0
    assert send()[0] == 200
