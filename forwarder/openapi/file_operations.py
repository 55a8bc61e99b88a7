"""The operations of OpenAI's API for images, files and vector stores."""

from __future__ import annotations

from forwarder.openapi.openai_operations import SSE_NOTE, make_page_parameters
from forwarder.openapi.operation import (
    ANYTHING,
    EVENTS,
    FORM,
    JSON,
    STORED,
    UPSTREAM,
    Answer,
    Operation,
    answer_json,
    make_query,
    refer_to_parameter,
)
from forwarder.openapi.schemas import make_list, make_object, refer
from forwarder.server.stored_files import (
    MAX_LIFETIME,
    MAX_PAGE_SIZE,
    MIN_LIFETIME,
    PURPOSES,
)
from forwarder.storage.db.vector_stores import STATUSES

_UPSTREAM_CHOICE = (refer_to_parameter("FileUpstream"), refer_to_parameter("FileUpstreamQuery"))

IMAGES: dict[str, Operation] = {
    "POST /v1/images/generations": Operation(
        answers=(
            Answer(
                {JSON: refer("ImagesResponse"), EVENTS: refer("ImageGenStreamEvent")},
                f"The upstream's answer. {SSE_NOTE}",
            ),
        ),
        errors=UPSTREAM,
        body={JSON: refer("ImageGenerationRequest")},
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
    ),
    "POST /v1/images/edits": Operation(
        answers=(
            Answer(
                {JSON: refer("ImagesResponse"), EVENTS: refer("ImageEditStreamEvent")},
                f"The upstream's answer. {SSE_NOTE}",
            ),
        ),
        errors=UPSTREAM,
        body={JSON: refer("ImageEditRequest"), FORM: refer("ImageEditForm")},
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
    ),
}

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
            *_UPSTREAM_CHOICE,
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
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Upload a file.",
    ),
    "GET /v1/files/{file}": Operation(
        answers=answer_json("FileObject"),
        errors=(*UPSTREAM, *STORED),
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Return the metadata of a file.",
    ),
    "DELETE /v1/files/{file}": Operation(
        answers=answer_json("FileDeleted"),
        errors=(*UPSTREAM, *STORED),
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
        summary="Delete a file.",
    ),
    "GET /v1/files/{file}/content": Operation(
        answers=_FILE_CONTENT,
        errors=(*UPSTREAM, *STORED),
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
    ),
    "GET /v1/containers/{container}/files/{file}/content": Operation(
        answers=_FILE_CONTENT,
        errors=UPSTREAM,
        parameters=_UPSTREAM_CHOICE,
        is_relayed=True,
    ),
}

_FILE_PAGE = (
    *make_page_parameters("desc", before=True),
    make_query(
        "filter", {"type": "string", "enum": list(STATUSES)}, "Only files with this status."
    ),
)

VECTOR_STORES: dict[str, Operation] = {
    "GET /v1/vector_stores": Operation(
        answers=answer_json(make_list(refer("VectorStore"))),
        errors=STORED,
        parameters=make_page_parameters("desc", before=True),
    ),
    "POST /v1/vector_stores": Operation(
        answers=answer_json("VectorStore"),
        errors=STORED,
        body={JSON: refer("VectorStoreRequest")},
        is_body_required=False,
    ),
    "GET /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStore"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStore"),
        errors=STORED,
        body={JSON: refer("VectorStoreUpdateRequest")},
    ),
    "DELETE /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStoreDeleted"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/search": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "vector_store.search_results.page"},
                    "search_query": {"type": "array", "items": {"type": "string"}},
                    "data": {"type": "array", "items": refer("VectorStoreSearchResponse")},
                    "has_more": {"type": "boolean"},
                    "next_page": {"type": ["string", "null"]},
                },
                ("object", "search_query", "data", "has_more", "next_page"),
            )
        ),
        errors=(*STORED, *UPSTREAM),
        body={JSON: refer("VectorStoreSearchRequest")},
        is_relayed=True,
        example={"query": "What does the contract say about notice?"},
    ),
    "GET /v1/vector_stores/{store_id}/files": Operation(
        answers=answer_json(make_list(refer("VectorStoreFile"))),
        errors=STORED,
        parameters=_FILE_PAGE,
    ),
    "POST /v1/vector_stores/{store_id}/files": Operation(
        answers=answer_json("VectorStoreFile"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileRequest")},
    ),
    "GET /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFile"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFile"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileUpdateRequest")},
    ),
    "DELETE /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFileDeleted"), errors=STORED
    ),
    "GET /v1/vector_stores/{store_id}/files/{file_id}/content": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "vector_store.file_content.page"},
                    "data": {"type": "array", "items": refer("FileContentResponse")},
                    "has_more": {"type": "boolean"},
                    "next_page": {"type": ["string", "null"]},
                },
                ("object", "data", "has_more", "next_page"),
            )
        ),
        errors=STORED,
    ),
    "POST /v1/vector_stores/{store_id}/file_batches": Operation(
        answers=answer_json("VectorStoreFileBatch"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileBatchRequest")},
    ),
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}": Operation(
        answers=answer_json("VectorStoreFileBatch"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel": Operation(
        answers=answer_json("VectorStoreFileBatch"), errors=STORED
    ),
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}/files": Operation(
        answers=answer_json(make_list(refer("VectorStoreFile"))),
        errors=STORED,
        parameters=_FILE_PAGE,
    ),
}
