"""Every type in the SDK's unions has a disposition that matches the behaviour.

`SAMPLES` has one sample for each row.  The part that must reach the upstream contains `MARK`.
Samples with ``input`` or ``messages`` are complete requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import httpx2
import pytest
from openai.types.chat import (
    ChatCompletionContentPartParam,
    ChatCompletionMessageParam,
    ChatCompletionToolUnionParam,
)
from openai.types.chat.chat_completion_assistant_message_param import ContentArrayOfContentPart
from openai.types.chat.chat_completion_message_tool_call_union_param import (
    ChatCompletionMessageToolCallUnionParam,
)
from openai.types.responses.response_function_call_output_item_param import (
    ResponseFunctionCallOutputItemParam,
)
from openai.types.responses.response_input_content_param import ResponseInputContentParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.response_output_message_param import Content
from openai.types.responses.tool_param import ToolParam

from forwarder import services
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError
from forwarder.core.translation_context import LossReport
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.item_dispositions import parse_row_type
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from forwarder.services import Services
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

MARK = "zebra"
URL = f"https://files.test/{MARK}.png"
DATA = "data:application/pdf;base64,JVBERi0xLjcK"

# -- the SDK's unions -------------------------------------------------------------------------------

UNIONS: dict[tuple[str, str], Any] = {
    ("responses", "input items"): ResponseInputItemParam,
    ("responses", "parts of messages"): ResponseInputContentParam,
    ("responses", "parts of the assistant's messages"): Content,
    ("responses", "parts of tools' results"): ResponseFunctionCallOutputItemParam,
    ("responses", "tools"): ToolParam,
    ("chat", "messages"): ChatCompletionMessageParam,
    ("chat", "parts of messages"): ChatCompletionContentPartParam,
    ("chat", "parts of the assistant's messages"): ContentArrayOfContentPart,
    ("chat", "tool calls"): ChatCompletionMessageToolCallUnionParam,
    ("chat", "tools"): ChatCompletionToolUnionParam,
}
ROWS_BEYOND_SDK = {("responses", "parts of messages"): {"input_audio"}}
"""Types that clients send although the unions lack them."""

TABLES = [
    (client, table)
    for client, protocol in UPSTREAM_PROTOCOLS.items()
    for table in protocol.item_tables
]


def list_names(hint: Any) -> Iterator[str]:
    """Yield the strings of a literal inside any annotation."""
    for arg in get_args(hint):
        if isinstance(arg, str):
            yield arg
        else:
            yield from list_names(arg)


def list_variants(client: str, table: str) -> set[str]:
    key = "role" if table == "messages" else "type"
    members = get_args(UNIONS[client, table])
    return {name for member in members for name in list_names(get_type_hints(member)[key])}


def test_every_table_has_an_sdk_union() -> None:
    assert set(TABLES) == set(UNIONS)


@check_each(("client", "table"), TABLES)
def test_every_sdk_type_has_a_disposition(client: str, table: str) -> None:
    sdk_types = list_variants(client, table)
    assert len(sdk_types) > 1
    assert (
        sdk_types - set(map(parse_row_type, UPSTREAM_PROTOCOLS[client].item_tables[table])) == set()
    )


@check_each(("client", "table"), TABLES)
def test_rows_beyond_the_sdk_are_known_exceptions(client: str, table: str) -> None:
    extra_rows = set(
        map(parse_row_type, UPSTREAM_PROTOCOLS[client].item_tables[table])
    ) - list_variants(client, table)
    assert extra_rows == ROWS_BEYOND_SDK.get((client, table), set())


# -- one sample of each -----------------------------------------------------------------------------

QUESTION: Json = {"role": "user", "content": "hi"}
FUNCTION: Json = {"type": "function", "name": MARK}


def with_answer(item: Json) -> list[Json]:
    """Return an item and the assistant's message after it."""
    return [item, {"role": "assistant", "content": "Well."}]


def make_pair(call: Json, output: Json) -> list[Json]:
    return [{"call_id": "c1", **call}, {"call_id": "c1", **output}]


def with_call(output: Json) -> list[Json]:
    return make_pair({"type": "function_call", "name": "f", "arguments": "{}"}, output)


SHELL: Json = {"type": "shell_call", "action": {"commands": [MARK]}}
LOCAL_SHELL: Json = {"type": "local_shell_call", "id": "c1", "status": "completed",
               "action": {"type": "exec", "command": [MARK], "env": {}}}  # fmt: skip
PATCH: Json = {"type": "apply_patch_call", "status": "completed",
               "operation": {"type": "delete_file", "path": MARK}}  # fmt: skip
SEARCH: Json = {"type": "tool_search_call", "arguments": {"query": MARK}, "execution": "client"}
CUSTOM: Json = {"type": "custom_tool_call", "name": "c", "input": MARK}


def make_result(call: Json, **output: Any) -> list[Json]:
    """Return a call without the mark, and its output."""
    call_without_mark = json.loads(json.dumps(call).replace(MARK, "x"))
    kind = call["type"].removesuffix("_call") if call is SEARCH else call["type"]
    return make_pair(call_without_mark, {"type": f"{kind}_output", **output})


MCP_TOOL: Json = {"type": "mcp", "server_label": "s", "server_url": "http://mcp.test/"}
MCP_CALL: Json = {"id": "m", "name": "x", "arguments": "{}", "server_label": "s"}
MCP_LIST: Json = {"type": "mcp_list_tools", "id": "m", "server_label": "s",
                  "tools": [{"name": MARK, "input_schema": {"type": "object"}}]}  # fmt: skip
MCP_REQUEST: Json = {"input": [QUESTION, MCP_LIST], "tools": [MCP_TOOL]}

ITEM_SAMPLES: dict[str, Any] = {
    "message": [{"type": "message", "role": "user", "content": MARK}],
    "message, with a phase": [
        {"type": "message", "role": "assistant", "content": "hi", "phase": MARK}
    ],
    "function_call": make_pair(
        {"type": "function_call", "name": MARK, "arguments": "{}"},
        {"type": "function_call_output", "output": ""},
    ),
    "function_call_output": with_call({"type": "function_call_output", "output": MARK}),
    "custom_tool_call": make_pair(CUSTOM, {"type": "custom_tool_call_output", "output": ""}),
    "custom_tool_call_output": make_result(CUSTOM, output=MARK),
    "local_shell_call": make_pair(LOCAL_SHELL, {"type": "local_shell_call_output", "output": "0"}),
    "local_shell_call_output": make_result(LOCAL_SHELL, output=MARK, id="c1"),
    "shell_call": make_pair(SHELL, {"type": "shell_call_output", "output": []}),
    "shell_call_output": make_result(
        SHELL, output=[{"stdout": MARK, "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
    ),
    "apply_patch_call": make_pair(PATCH, {"type": "apply_patch_call_output", "status": "completed"}),
    "apply_patch_call_output": make_result(PATCH, status="failed", output=MARK),
    "tool_search_call": make_pair(SEARCH, {"type": "tool_search_output", "tools": []}),
    "tool_search_output": make_result(SEARCH, tools=[FUNCTION]),
    "additional_tools": [{"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}],
    "configuration_update": [{"type": "configuration_update", "reasoning": {"effort": MARK}}],
    "reasoning": with_answer(
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": MARK}]}
    ),
    "reasoning, encrypted elsewhere": with_answer(
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": MARK}
    ),
    "item_reference, stored": [{"type": "item_reference", "id": "<remembered>"}],
    "item_reference, unknown": [{"type": "item_reference", "id": "msg_of_nobody"}],
    "compaction": [{"type": "compaction", "encrypted_content": "<compacted>"}],
    "compaction, made elsewhere": [{"type": "compaction", "encrypted_content": MARK}],
    "compaction_trigger": [{"role": "user", "content": MARK}, {"type": "compaction_trigger"}],
    "web_search_call": [{"type": "web_search_call", "id": "w", "status": "completed",
                         "action": {"type": "search", "query": MARK}}],
    "file_search_call": [{"type": "file_search_call", "id": "f", "status": "completed",
                          "queries": [MARK]}],
    "code_interpreter_call": [{"type": "code_interpreter_call", "id": "i", "code": MARK,
                               "container_id": "c", "outputs": [], "status": "completed"}],
    "image_generation_call": [{"type": "image_generation_call", "id": "i", "result": MARK,
                               "status": "completed"}],
    "computer_call": [{"type": "computer_call", "id": "c", "call_id": MARK, "status": "completed",
                       "pending_safety_checks": []}],
    "computer_call_output": [{"type": "computer_call_output", "call_id": "c",
                              "output": {"type": "computer_screenshot", "image_url": URL}}],
    "mcp_list_tools": MCP_REQUEST,
    "mcp_call": [{**MCP_CALL, "type": "mcp_call", "name": MARK}],
    "mcp_approval_request": [{**MCP_CALL, "type": "mcp_approval_request", "name": MARK}],
    "mcp_approval_response": [
        {**MCP_CALL, "type": "mcp_approval_request"},
        {"type": "mcp_approval_response", "approve": False, "approval_request_id": "m",
         "reason": MARK},
    ],
    "program": [{"type": "program", "id": "p", "call_id": "c", "code": MARK, "fingerprint": "f"}],
    "program_output": [{"type": "program_output", "id": "p", "call_id": "c", "result": MARK,
                        "status": "completed"}],
}  # fmt: skip

SOUND: Json = {"type": "input_audio", "input_audio": {"data": f"{MARK}zeb", "format": "wav"}}

INPUT_PART_SAMPLES: dict[str, Json] = {
    "input_text": {"type": "input_text", "text": MARK},
    "input_text, with a prompt_cache_breakpoint": {
        "type": "input_text", "text": "hi", "prompt_cache_breakpoint": {"mode": MARK}
    },
    "input_image": {"type": "input_image", "image_url": URL, "detail": "auto"},
    "input_image, by file id": {"type": "input_image", "file_id": MARK, "detail": "auto"},
    "input_image, of a system message": {
        "input": [{"role": "system", "content": [{"type": "input_image", "image_url": URL}]}]
    },
    "input_file": {"type": "input_file", "file_data": DATA, "filename": f"{MARK}.pdf"},
    "input_file, with a detail": {
        "type": "input_file", "file_data": DATA, "filename": "a.pdf", "detail": MARK
    },
    "input_file, by URL": {"type": "input_file", "file_url": URL},
    "input_audio": SOUND,
}  # fmt: skip
RESULT_PART_SAMPLES = {
    row: INPUT_PART_SAMPLES[row]
    for row in UPSTREAM_PROTOCOLS["responses"].item_tables["parts of tools' results"]
}

RESPONSES_TOOL_SAMPLES: dict[str, Json] = {
    "function": FUNCTION,
    "custom": {"type": "custom", "name": "c", "description": MARK},
    "local_shell": {"type": "local_shell"},
    "shell": {"type": "shell", "environment": {"type": "local"}},
    "shell, in a container": {"type": "shell", "environment": {"type": "container_auto"}},
    "apply_patch": {"type": "apply_patch"},
    "tool_search, run by the client": {"type": "tool_search", "execution": "client",
                                       "description": MARK},
    "tool_search": {"type": "tool_search"},
    "namespace": {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]},
    "web_search": {"type": "web_search"},
    "web_search_2025_08_26": {"type": "web_search_2025_08_26"},
    "web_search_preview": {"type": "web_search_preview"},
    "web_search_preview_2025_03_11": {"type": "web_search_preview_2025_03_11"},
    "file_search": {"type": "file_search", "vector_store_ids": ["<store>"]},
    "code_interpreter": {"type": "code_interpreter", "container": MARK},
    "image_generation": {"type": "image_generation", "model": MARK},
    "mcp": MCP_REQUEST,
    "computer": {"type": "computer"},
    "computer_use_preview": {"type": "computer_use_preview", "environment": "linux",
                             "display_height": 1, "display_width": 1},
    "programmatic_tool_calling": {"type": "programmatic_tool_calling"},
}  # fmt: skip

FUNCTION_TEXTS = {
    "local_shell": "local_shell",
    "shell": "commands",
    "apply_patch": "V4A",
    "image_generation": "What the image shows",
    "web_search": "web_open_page",
    "web_search_2025_08_26": "web_open_page",
    "web_search_preview": "web_open_page",
    "web_search_preview_2025_03_11": "web_open_page",
    "file_search": "file_search",
}
"""A text in the function of a row, for tools whose definition cannot contain the mark."""


def make_chat_call(kind: str, body: Json) -> list[Json]:
    call = {"id": "c1", "type": kind, kind: body}
    return [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ]


F_CALL = make_chat_call("function", {"name": "f", "arguments": "{}"})[0]

MESSAGE_SAMPLES: dict[str, list[Json]] = {
    **{role: [{"role": role, "content": MARK}] for role in ("developer", "system", "user")},
    "user, with a name": [{"role": "user", "content": "hi", "name": MARK}],
    "assistant": [{"role": "assistant", "content": MARK}],
    "assistant, with reasoning": [
        {"role": "assistant", "content": "hi", "reasoning_content": MARK}
    ],
    "assistant, with annotations": [
        {"role": "assistant", "content": "hi", "annotations": [{"type": MARK}]}
    ],
    "assistant, with audio": [{"role": "assistant", "content": "hi", "audio": {"id": MARK}}],
    "tool": [F_CALL, {"role": "tool", "tool_call_id": "c1", "content": MARK}],
    "function": [
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": MARK},
    ],
}

USER_PART_SAMPLES: dict[str, Json] = {
    "text": {"type": "text", "text": MARK},
    "image_url": {"type": "image_url", "image_url": {"url": URL}},
    "file": {"type": "file", "file": {"file_data": DATA, "filename": f"{MARK}.pdf"}},
    "input_audio": SOUND,
}

SAMPLES: dict[tuple[str, str], tuple[dict[str, Any], Callable[[Any], Json]]] = {
    ("responses", "input items"): (ITEM_SAMPLES, lambda items: {"input": [QUESTION, *items]}),
    ("responses", "parts of messages"): (
        INPUT_PART_SAMPLES,
        lambda part: {"input": [{"role": "user", "content": [part]}]},
    ),
    ("responses", "parts of the assistant's messages"): (
        {
            "output_text": {"type": "output_text", "text": MARK, "annotations": []},
            "output_text, with annotations": {
                "type": "output_text",
                "text": "hi",
                "annotations": [{"type": MARK}],
            },
            "output_text, with logprobs": {
                "type": "output_text",
                "text": "hi",
                "logprobs": [{"token": MARK}],
            },
            "refusal": {"type": "refusal", "refusal": MARK},
        },
        lambda part: {"input": [QUESTION, {"role": "assistant", "content": [part]}]},
    ),
    ("responses", "parts of tools' results"): (
        RESULT_PART_SAMPLES,
        lambda part: {
            "input": [QUESTION, *with_call({"type": "function_call_output", "output": [part]})]
        },
    ),
    ("responses", "tools"): (RESPONSES_TOOL_SAMPLES, lambda tool: {"input": "hi", "tools": [tool]}),
    ("chat", "messages"): (MESSAGE_SAMPLES, lambda messages: {"messages": [QUESTION, *messages]}),
    ("chat", "parts of messages"): (
        USER_PART_SAMPLES,
        lambda part: {"messages": [{"role": "user", "content": [part]}]},
    ),
    ("chat", "parts of the assistant's messages"): (
        {
            "text": {"type": "text", "text": MARK},
            "refusal": {"type": "refusal", "refusal": MARK},
        },
        lambda part: {"messages": [QUESTION, {"role": "assistant", "content": [part]}]},
    ),
    ("chat", "tool calls"): (
        {
            "function": make_chat_call("function", {"name": MARK, "arguments": "{}"}),
            "custom": make_chat_call("custom", {"name": "c", "input": MARK}),
        },
        lambda messages: {"messages": [QUESTION, *messages]},
    ),
    ("chat", "tools"): (
        {
            "function": {"type": "function", "function": {"name": MARK}},
            "custom": {"type": "custom", "custom": {"name": MARK}},
        },
        lambda tool: {"messages": [QUESTION], "tools": [tool]},
    ),
}


@check_each(("client", "table"), TABLES)
def test_every_row_has_a_sample(client: str, table: str) -> None:
    samples, _ = SAMPLES[client, table]
    assert samples.keys() == UPSTREAM_PROTOCOLS[client].item_tables[table].keys()
    for row, sample in samples.items():
        assert f'"{parse_row_type(row)}"' in json.dumps(sample), row


# -- dispositions and behaviour ---------------------------------------------------------------------

ROWS = [
    pytest.param(client, table, row, disposition, id=f"{client}-{table}-{row}".replace(" ", "_"))
    for client, table in TABLES
    for row, disposition in UPSTREAM_PROTOCOLS[client].item_tables[table].items()
]


TRIGGER: Json = {"type": "compaction_trigger"}


class DryRun:
    """A gateway for dry runs. It has stored one answer, which contains the mark."""

    def __init__(self) -> None:
        chunk = {"choices": [{"index": 0, "delta": {"content": MARK}, "finish_reason": "stop"}]}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text=text))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
            url = "http://up.test/v1"
            settings = Settings.from_env(
                {
                    "CHAT_BASE_URL": url,
                    "RESPONSES_BASE_URL": url,
                    "FORWARDER_API_KEYS": "k",
                    "FORWARDER_FILES": "store",
                    "FORWARDER_WEB_SEARCH": "searxng",
                    "FORWARDER_WEB_SEARCH_URL": "http://searxng.test",
                    "RESPONSES_API_KEY": "k",
                    "FORWARDER_IMAGE_GENERATION": "images:responses/m",
                }
            )
            built_services = Services.build(settings)
            self._gateway = Gateway(built_services)
        owner = built_services.owners.find_owner(None)
        stores = self._gateway.vector_stores
        self.store: str = stores.create_store(owner, "s", None, {}, None, [])["id"]
        self.stored_item_id: str = self._run("hi")["id"]
        self.compacted: str = self._run([QUESTION, TRIGGER])["encrypted_content"]

    def _run(self, input_value: Any) -> Json:
        """Run a request and return the first item of the answer."""
        request = {"model": "m", "input": input_value, "stream": True}
        [terminal_event] = [e for e in self._events(request) if e["type"] == "response.completed"]
        item: Json = terminal_event["response"]["output"][0]
        return item

    def _events(self, request: Json) -> Iterator[Json]:
        context = RequestContext("req_1", "responses", LossReport())
        for batch in self._gateway.stream("responses", request, None, context):
            yield from batch

    def translate(self, client: str, request: Json, strict: bool = False) -> Json:
        text = json.dumps({"model": "m", **request}).replace("<remembered>", self.stored_item_id)
        text = text.replace("<compacted>", self.compacted).replace("<store>", self.store)
        context = RequestContext("req_2", "translate", LossReport(strict=strict))
        return self._gateway.preview(client, json.loads(text), None, context)


@pytest.fixture(scope="module")
def dry_run() -> DryRun:
    return DryRun()


def make_request(client: str, table: str, row: str) -> Json:
    samples, wrap = SAMPLES[client, table]
    sample = samples[row]
    is_request = isinstance(sample, dict) and sample.keys() & {"input", "messages"}
    return dict(sample) if is_request else wrap(sample)


@check_each(("client", "table", "row", "disposition"), ROWS)
def test_disposition_matches_behaviour(
    client: str, table: str, row: str, disposition: Disposition, dry_run: DryRun
) -> None:
    CHECKS[disposition.kind](dry_run, client, table, row, disposition)


def check_refused(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    with pytest.raises(ForwarderError) as caught:
        dry_run.translate(client, make_request(client, table, row))
    assert caught.value.status == 400
    assert caught.value.param


def check_dropped(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    request = make_request(client, table, row)
    preview = dry_run.translate(client, request)
    assert list(preview["dropped"].values()) == [disposition.reason]
    assert MARK not in json.dumps(preview["request"])
    with pytest.raises(ForwarderError) as caught:
        dry_run.translate(client, request, strict=True)
    assert caught.value.param in preview["dropped"]


def check_noted(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    for strict in (False, True):
        preview = dry_run.translate(client, make_request(client, table, row), strict)
        assert list(preview["dropped"].values()) == [disposition.reason]
        assert MARK not in json.dumps(preview["request"])


def check_arrival(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> Json:
    preview = dry_run.translate(client, make_request(client, table, row), strict=True)
    assert preview["dropped"] == {}
    assert FUNCTION_TEXTS.get(row, MARK) in json.dumps(preview["request"])
    return preview


def check_carried(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    preview = check_arrival(dry_run, client, table, row, disposition)
    assert contains_part(preview["request"], SAMPLES[client, table][0][row])


def check_mapped(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    preview = check_arrival(dry_run, client, table, row, disposition)
    assert disposition.reason
    assert not contains_part(preview["request"], SAMPLES[client, table][0][row]), "unchanged"


def check_emulated(
    dry_run: DryRun, client: str, table: str, row: str, disposition: Disposition
) -> None:
    preview = check_arrival(dry_run, client, table, row, disposition)
    assert preview["would_fetch"] or dry_run.stored_item_id not in json.dumps(preview["request"])
    assert dry_run.compacted not in json.dumps(preview["request"])


CHECKS = {"refused": check_refused, "dropped": check_dropped, "noted": check_noted, "carried": check_carried,
        "mapped": check_mapped, "emulated": check_emulated}  # fmt: skip


def contains_part(value: Any, part: Any) -> bool:
    """Return True if a JSON value contains ``part`` unchanged."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(value == part) or any(contains_part(child, part) for child in inner)
