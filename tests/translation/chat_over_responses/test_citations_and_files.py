from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.citations_and_files import SideData
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def make_side_data(*annotations: Any) -> SideData:
    side_data = SideData("https://f.test{}".format)
    for annotation in annotations:
        side_data.add_annotation((0, 0), annotation, before=10)
    return side_data


def make_citation(kind: str = "container_file_citation", **more: Any) -> Json:
    return {"type": kind, "file_id": "cfile_1", "container_id": "cntr_1", **more}


def test_positions_include_earlier_texts() -> None:
    annotation = {
        "type": "url_citation",
        "start_index": 1,
        "end_index": 2,
        "url": "u",
        "title": "t",
    }
    [citation] = make_side_data(annotation, "odd", None).annotations
    assert citation["url_citation"] == {
        "start_index": 11,
        "end_index": 12,
        "url": "u",
        "title": "t",
    }
    assert annotation["start_index"] == 1


def test_file_is_listed_once_with_all_its_fields() -> None:
    side_data = make_side_data(
        make_citation(),
        make_citation(filename="a.png"),
        make_citation("file_path", container_id=None),
    )
    assert side_data.annotations == []
    assert side_data.files == [
        {
            "file_id": "cfile_1",
            "container_id": "cntr_1",
            "filename": "a.png",
            "url": "https://f.test/containers/cntr_1/files/cfile_1/content",
        },
        {"file_id": "cfile_1", "url": "https://f.test/files/cfile_1/content"},
    ]


@check_each("file_id", ["../x", "a/b", "a?b", "a\nb", ".", "ü"])
def test_unsafe_file_id_has_no_url(file_id: str) -> None:
    assert make_side_data({"type": "file_path", "file_id": file_id}).files == [{"file_id": file_id}]
    assert "url" not in make_side_data(make_citation(container_id=file_id)).files[0]


@check_each("file_id", [None, "", 7, ["a"]])
def test_file_without_an_id_is_ignored(file_id: Any) -> None:
    assert make_side_data({"type": "file_path", "file_id": file_id}).files == []


def test_code_interpreter_image_is_a_file() -> None:
    side_data = make_side_data()
    image = {"type": "image", "url": "https://e.test/1.png"}
    side_data.add_output_images([{"type": "logs", "logs": "ok"}, image, image, {"type": "image"}])
    side_data.add_output_images(None)
    assert side_data.files == [{"url": "https://e.test/1.png"}]


def test_side_data_contains_positions_of_annotated_texts() -> None:
    assert (0, 0) in make_side_data(make_citation())
    assert (0, 1) not in make_side_data(make_citation())


def test_placement_has_end_positions() -> None:
    url = {"type": "url_citation", "start_index": 1, "end_index": 2, "url": "u", "title": "t"}
    side_data = make_side_data(
        url,
        make_citation(end_index=7),
        make_citation(end_index=5),
        make_citation("file_path", index=9),
    )
    side_data.add_annotation(
        (1, 0), {"type": "url_citation", "url": "v"}, before=20, text_length=33
    )
    side_data.add_output_images([{"type": "image", "url": "https://e.test/1.png"}], text_length=40)
    placed = side_data.placement
    assert [at for at, _ in placed["annotations"]] == [12, 33]
    assert [note for _, note in placed["annotations"]] == side_data.annotations
    assert [at for at, _ in placed["files"]] == [15, 40]
    assert [file for _, file in placed["files"]] == side_data.files
