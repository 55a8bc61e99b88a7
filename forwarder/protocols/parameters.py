"""The disposition of every request parameter in a translation between protocols.

A parameter is one of

- *carried*: it keeps its name and value;
- *mapped*: the request translators change its name, shape or place;
- *emulated*: the upstream's protocol lacks it, and a middleware does its work;
- *offered*: it is carried to upstreams that take it beyond their protocol, and dropped for others;
- *local*: the forwarder itself acts on it;
- *dropped*: it has no counterpart; the loss report names it and the reason;
- *refused*: the answer would differ without it, so the request fails.

``neutral`` values ask for nothing: a dropped or refused parameter with such a value is left out
without a report, and nothing is emulated for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR, JsonTypes, check_type


class Disposition(NamedTuple):
    """The row of a parameter: its disposition, its JSON types, the reason, neutral values.

    ``sent_as`` are the upstream's parameters that it becomes. ``fields`` are the fields that are
    read in an object, each with the upstream's parameter that it becomes, or ``""``.
    """

    kind: str
    types: JsonTypes = ANY
    reason: str = ""
    neutral: tuple[Any, ...] = ()
    sent_as: tuple[str, ...] = ()
    fields: Mapping[str, str] = MappingProxyType({})


def carry(types: JsonTypes) -> Disposition:
    return Disposition("carried", types)


def remap(
    types: JsonTypes,
    reason: str,
    sent_as: tuple[str, ...] = (),
    fields: Mapping[str, str] = MappingProxyType({}),
) -> Disposition:
    return Disposition("mapped", types, reason, sent_as=sent_as, fields=fields)


def emulate(types: JsonTypes, reason: str, *neutral: Any) -> Disposition:
    return Disposition("emulated", types, reason, neutral)


def offer(types: JsonTypes, reason: str, *neutral: Any) -> Disposition:
    return Disposition("offered", types, reason, neutral)


def keep_local(types: JsonTypes, reason: str) -> Disposition:
    return Disposition("local", types, reason)


def drop(types: JsonTypes, reason: str, *neutral: Any) -> Disposition:
    return Disposition("dropped", types, reason, neutral)


def refuse(types: JsonTypes, reason: str, *neutral: Any) -> Disposition:
    return Disposition("refused", types, reason, neutral)


COMMON_PARAMETERS = {
    "model": carry(STR),
    "temperature": carry(NUMBER),
    "top_p": carry(NUMBER),
    "parallel_tool_calls": carry(BOOL),
    "metadata": carry(DICT),
    "moderation": carry(DICT),
    "prompt_cache_key": carry(STR),
    "prompt_cache_retention": carry(STR),
    "safety_identifier": carry(STR),
    "user": carry(STR),
    "stream": carry(BOOL),
    "stream_options": keep_local(
        DICT, "usage is always requested from the upstream, and returned if the client wants it"
    ),
    "tools": remap(
        LIST,
        "converted between the flat and the nested shape; namespaces are flattened",
        ("tools",),
    ),
    "tool_choice": remap(
        (str, dict), "converted between the flat and the nested shape", ("tool_choice",)
    ),
}

RESPONSES_OVER_CHAT: dict[str, Disposition] = {
    **COMMON_PARAMETERS,
    "access_programs": drop(DICT, "applies only to accounts at OpenAI"),
    "background": emulate(
        BOOL, "the forwarder runs it in the background and stores the result", False
    ),
    "background_options": keep_local(DICT, "background work starts at once"),
    "client_metadata": keep_local(DICT, "metadata of Codex for OpenAI; upstreams do not need it"),
    "context_management": emulate(
        LIST, "above the threshold the model summarizes the conversation", []
    ),
    "conversation": emulate(
        (str, dict), "its items are put before the input; input and output are added to it"
    ),
    "frequency_penalty": carry(NUMBER),
    "image": drop(DICT, "Chat Completions has no image compression"),
    "include": remap(
        LIST,
        "requests log probabilities; the forwarder serves the other values",
        ("logprobs",),
    ),
    "input": remap((str, list), "becomes messages", ("messages",)),
    "instructions": remap(STR, "becomes the first message"),
    "logit_bias": carry(DICT),
    "max_output_tokens": remap(
        INT, "sent as `max_completion_tokens`", ("max_completion_tokens", "max_tokens")
    ),
    "max_tool_calls": keep_local(INT, "limits the hosted tools that the forwarder runs"),
    "presence_penalty": carry(NUMBER),
    "previous_response_id": emulate(STR, "the earlier turns are put before the input"),
    "prompt": refuse(DICT, "prompt templates are stored at OpenAI"),
    "prompt_cache_options": remap(DICT, "sent without `comparison_response_id` and `prewarm`"),
    "reasoning": remap(
        DICT,
        "the effort is sent; the summary selects the form in which the client gets reasoning",
        fields={
            "effort": "reasoning_effort",
            "summary": "",
            "generate_summary": "",
            "mode": "",
            "context": "",
        },
    ),
    "seed": carry(INT),
    "service_tier": remap(STR, "`ultrafast` is sent as `priority`"),
    "stop": carry((str, list)),
    "store": keep_local(
        BOOL, "whether the forwarder stores the response; the upstream stores nothing"
    ),
    "text": remap(
        DICT,
        "becomes response_format and verbosity",
        fields={"format": "response_format", "verbosity": "verbosity"},
    ),
    "tools": COMMON_PARAMETERS["tools"]._replace(sent_as=("tools", "web_search_options")),
    "top_logprobs": remap(INT, "sent with `logprobs: true`", ("logprobs",)),
    "truncation": emulate(
        STR,
        "the oldest turns are removed if the upstream says that the context is full",
        "disabled",
    ),
}
"""A Responses client's parameters over a Chat upstream.

Sampling parameters and ``stop`` exist only in Chat, but have one clear meaning: they are carried.
"""

_NO_SUCH_PARAMETER = (
    "the Responses API has no such parameter, and this upstream does not accept it either"
)

CHAT_OVER_RESPONSES: dict[str, Disposition] = {
    **COMMON_PARAMETERS,
    "audio": refuse(DICT, "the Responses API answers in text"),
    "frequency_penalty": offer(NUMBER, _NO_SUCH_PARAMETER, 0),
    "function_call": remap((str, dict), "the older form of `tool_choice`", ("tool_choice",)),
    "functions": remap(LIST, "the older form of `tools`", ("tools",)),
    "logit_bias": offer(DICT, _NO_SUCH_PARAMETER, {}),
    "logprobs": remap(BOOL, "requested by `include`", ("include",)),
    "max_completion_tokens": remap(
        INT, "sent as `max_output_tokens`, at least 16", ("max_output_tokens",)
    ),
    "max_tokens": remap(INT, "sent as `max_output_tokens`, at least 16", ("max_output_tokens",)),
    "messages": remap(LIST, "become input items", ("input",)),
    "modalities": remap(
        LIST,
        "images are requested by the image_generation tool; audio is not supported",
        ("tools",),
    ),
    "n": emulate(INT, "that many requests are sent, and their answers merged", 1),
    "prediction": offer(DICT, _NO_SUCH_PARAMETER),
    "presence_penalty": offer(NUMBER, _NO_SUCH_PARAMETER, 0),
    "prompt_cache_options": carry(DICT),
    "reasoning_effort": remap(STR, "sent as `reasoning.effort`", ("reasoning",)),
    "response_format": remap(DICT, "sent as `text.format`", ("text.format", "text")),
    "seed": offer(INT, _NO_SUCH_PARAMETER),
    "service_tier": carry(STR),
    "stop": emulate((str, list), "the answer is cut here", []),
    "store": remap(BOOL, "the Responses API stores by default"),
    "top_logprobs": remap(INT, "sent with `logprobs`"),
    "verbosity": remap(STR, "sent as `text.verbosity`", ("text.verbosity", "text")),
    "web_search_options": remap(
        DICT,
        "becomes the web_search tool",
        ("tools",),
        {"search_context_size": "", "user_location": ""},
    ),
}
"""A Chat client's parameters over a Responses upstream."""


def list_client_names(table: Mapping[str, Disposition]) -> dict[str, tuple[str, ...]]:
    """Return the upstream's parameter -> the client's possible names for it, from a table."""
    names: dict[str, tuple[str, ...]] = {}
    for name, row in table.items():
        pairs = [(name, sent_as) for sent_as in row.sent_as]
        pairs += [(f"{name}.{field}", sent_as) for field, sent_as in row.fields.items() if sent_as]
        for client_name, sent_as in pairs:
            names[sent_as] = (*names.get(sent_as, ()), client_name)
    return names


_UNKNOWN_PARAMETER = offer(ANY, "neither API knows this parameter")
_OTHER_API_PARAMETER = offer(ANY, "only the other API knows this parameter")
_KNOWN_PARAMETERS = RESPONSES_OVER_CHAT.keys() | CHAT_OVER_RESPONSES.keys()


def validate_parameters(
    request: Json,
    dispositions: dict[str, Disposition],
    loss_report: LossReport,
    extensions: Collection[str] = (),
) -> Iterator[tuple[str, Any]]:
    """Check all parameters; yield those that are mapped or carried as ``(name, value)``.

    Null means absent, in both protocols.  Names outside the table are dropped, since strict
    upstreams refuse unknown names, unless ``extensions`` lists them: the names that this upstream
    takes beyond its protocol.  Raises InvalidRequest for a value of a wrong type and Unsupported
    for a refused parameter.
    """
    for name, value in request.items():
        if value is None:
            continue
        disposition = dispositions.get(name) or (
            _OTHER_API_PARAMETER if name in _KNOWN_PARAMETERS else _UNKNOWN_PARAMETER
        )
        check_type(value, disposition.types, name)
        if disposition.kind in ("carried", "mapped") or (
            disposition.kind == "offered" and name in extensions
        ):
            yield name, value
        elif disposition.kind in ("local", "emulated") or value in disposition.neutral:
            continue
        elif disposition.kind in ("dropped", "offered"):
            loss_report.drop(name, disposition.reason)
        else:
            raise Unsupported(
                f"Unsupported parameter: '{name}'. Here, {disposition.reason}.", param=name
            )
