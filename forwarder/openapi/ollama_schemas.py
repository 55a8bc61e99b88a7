"""The schemas of Ollama's API."""

from __future__ import annotations

from collections.abc import Collection

from forwarder.core.types import Json
from forwarder.models.registered_model import CAPABILITIES, REMOTE_TYPES
from forwarder.openapi.schemas import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    TEXTS,
    accept_types,
    add_properties,
    make_object,
    make_request,
    refer,
)
from forwarder.protocols.model_defaults import MODEL_PARAMETERS
from forwarder.protocols.ollama import (
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_EMBEDDINGS,
    OLLAMA_GENERATE,
)

_METRICS = (
    *("total_duration", "load_duration"),
    *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
)
_LINE = {
    "model": TEXT,
    "created_at": {"type": "string", "format": "date-time"},
    "done": FLAG,
    "done_reason": TEXT,
    "logprobs": {"type": "array", "items": OBJECT},
    **dict.fromkeys(_METRICS, COUNT),
}
_LINE_REQUIRED = ("model", "created_at", "done")
_OUTPUT = {"thinking": TEXT, "tool_calls": {"type": "array", "items": OBJECT}}
_MODEL_NAME = {
    "model": accept_types("string"),
    "name": accept_types("string", description="The older form of `model`."),
}
_OVER_CHAT = "Over Chat upstreams"


def make_ollama_message() -> Json:
    return make_object(
        {
            "role": TEXT,
            "content": accept_types("string"),
            "thinking": accept_types("string"),
            "images": accept_types("array", items=TEXT),
            "tool_calls": accept_types("array", items=OBJECT),
            "tool_name": accept_types("string"),
            "tool_call_id": accept_types("string"),
        },
        ("role",),
    )


def make_model_entry(required: Collection[str]) -> Json:
    return make_object(
        {
            "name": TEXT,
            "model": TEXT,
            "remote_model": TEXT,
            "remote_host": TEXT,
            "modified_at": TEXT,
            "size": COUNT,
            "digest": TEXT,
            "details": OBJECT,
            "capabilities": TEXTS,
            "expires_at": TEXT,
            "size_vram": COUNT,
            "context_length": COUNT,
        },
        required,
    )


def make_ollama_schemas() -> dict[str, Json]:
    """Return the schemas of Ollama's API."""
    messages = {"messages": accept_types("array", items=refer("OllamaMessage"))}
    chat = make_request(OLLAMA_CHAT, _OVER_CHAT, required=("model",))
    chat["properties"]["messages"] |= messages["messages"]
    model_request = make_object(_MODEL_NAME, anyOf=[{"required": [name]} for name in _MODEL_NAME])
    return {
        "OllamaMessage": make_ollama_message(),
        "OllamaChatRequest": chat,
        "OllamaGenerateRequest": make_request(OLLAMA_GENERATE, _OVER_CHAT, required=("model",)),
        "OllamaEmbedRequest": make_request(OLLAMA_EMBED, _OVER_CHAT, required=("model",)),
        "OllamaEmbeddingsRequest": make_request(OLLAMA_EMBEDDINGS, _OVER_CHAT, required=("model",)),
        "OllamaModelRequest": model_request,
        "OllamaShowRequest": add_properties(model_request, verbose=accept_types("boolean")),
        "OllamaPullRequest": add_properties(model_request, stream=accept_types("boolean")),
        "OllamaCreateRequest": make_create_request(),
        "OllamaChatLine": make_object(
            {**_LINE, "message": make_object({"role": TEXT, "content": TEXT, **_OUTPUT})},
            (*_LINE_REQUIRED, "message"),
        ),
        "OllamaGenerateLine": make_object(
            {**_LINE, "response": TEXT, **_OUTPUT}, (*_LINE_REQUIRED, "response")
        ),
        "Vector": {"type": "array", "items": {"type": "number"}},
        "OllamaEmbedAnswer": make_object(
            {
                "model": TEXT,
                "embeddings": {"type": "array", "items": refer("Vector")},
                "total_duration": COUNT,
                "load_duration": COUNT,
                "prompt_eval_count": COUNT,
            },
            ("model", "embeddings"),
        ),
        "OllamaModel": make_model_entry(("name", "model", "size", "digest", "details")),
        "OllamaModelDescription": make_object(
            {
                **dict.fromkeys(("license", "modelfile", "parameters", "template", "system"), TEXT),
                "details": OBJECT,
                "model_info": OBJECT,
                "capabilities": TEXTS,
                "modified_at": TEXT,
                "remote_model": TEXT,
                "remote_host": TEXT,
                "health": refer("ProbeResult"),
            },
            ("modelfile", "details", "model_info", "capabilities"),
        ),
        "OllamaStatus": make_object({"status": TEXT, "found": OBJECT}, ("status",)),
    }


def make_create_request() -> Json:
    return make_object(
        {
            **_MODEL_NAME,
            "from": {"type": "string", "minLength": 1, "description": "The remote's model."},
            "stream": accept_types("boolean"),
            "verify": accept_types("boolean", description="Send a test request. Default: true."),
            "remote_host": accept_types("string", description="The remote's base URL."),
            "remote_type": {"enum": [*REMOTE_TYPES, None]},
            "remote_api_key": accept_types("string", writeOnly=True),
            "remote_headers": accept_types("object", additionalProperties=TEXT),
            "remote_query": accept_types("object", additionalProperties=TEXT),
            "provider": accept_types("string"),
            "quirks": accept_types(
                "object", description="Fields of the provider's profile that differ here."
            ),
            "parameters": accept_types(
                "object",
                properties={
                    name: {"description": f"{parameter.accepted_values}."}
                    for name, parameter in MODEL_PARAMETERS.items()
                },
                additionalProperties=False,
            ),
            "system": accept_types("string"),
            "license": accept_types("string", "array"),
            "info": accept_types(
                "object",
                properties={
                    "capabilities": accept_types("array", items={"enum": list(CAPABILITIES)}),
                    "context_length": accept_types("integer", minimum=1),
                },
            ),
            "requires": {},
        },
        ("from",),
        anyOf=[{"required": [name]} for name in _MODEL_NAME],
        additionalProperties=False,
    )
