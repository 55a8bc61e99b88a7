"""The operations of OpenAI's API for files."""

from __future__ import annotations

from forwarder.openapi.openai_operations import make_page_parameters
from forwarder.openapi.operation import (
    ANYTHING,
    FORM,
    STORED,
    UPSTREAM,
    UPSTREAM_CHOICE,
    Answer,
    Operation,
    answer_json,
    make_query,
)
from forwarder.openapi.schemas import make_list, make_object, refer
from forwarder.server.stored_files import (
    MAX_LIFETIME,
    MAX_PAGE_SIZE,
    MIN_LIFETIME,
    PURPOSES,
)

_FILE_CONTENT = (
    Answer({ANYTHING: {}}, "The content, as an attachment.", headers=("Content-Disposition",)),
)

FILES: dict[str, Operation] = {
    "GET /v1/files": Operation(
        answers=answer_json(make_list(refer("FileObject"))),
        errors=(*UPSTREAM, *STORED),
        parameters=(
            *make_page_parameters("desc", MAX_PAGE_SIZE, MAX_PAGE_SIZE),
            make_query(
                "purpose",
                {"type": "string", "enum": list(PURPOSES)},
                "Only those with this purpose.",
            ),
            *UPSTREAM_CHOICE,
        ),
        is_relayed=True,
        summary="List files. With files at an upstream, the answer is the upstream's.",
    ),
    "POST /v1/files": Operation(
        answers=answer_json("FileObject"),
        errors=(*UPSTREAM, *STORED),
        body={
            FORM: make_object(
                {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"enum": list(PURPOSES)},
                    "expires_after[anchor]": {"const": "created_at"},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": MIN_LIFETIME,
                        "maximum": MAX_LIFETIME,
                    },
                },
                ("file", "purpose"),
                dependentRequired={
                    "expires_after[anchor]": ["expires_after[seconds]"],
                    "expires_after[seconds]": ["expires_after[anchor]"],
                },
            )
        },
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Upload a file.",
    ),
    "GET /v1/files/{file}": Operation(
        answers=answer_json("FileObject"),
        errors=(*UPSTREAM, *STORED),
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Return the metadata of a file.",
    ),
    "DELETE /v1/files/{file}": Operation(
        answers=answer_json("FileDeleted"),
        errors=(*UPSTREAM, *STORED),
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Delete a file.",
    ),
    "GET /v1/files/{file}/content": Operation(
        answers=_FILE_CONTENT,
        errors=(*UPSTREAM, *STORED),
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
    ),
    "GET /v1/containers/{container}/files/{file}/content": Operation(
        answers=_FILE_CONTENT,
        errors=UPSTREAM,
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
    ),
}
