"""The history that a request names: the response or conversation that it continues.

Also whether the response is stored, and whether the upstream stores responses.
"""

from __future__ import annotations

from typing import NamedTuple

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, DICT, STR, read_field, require_field
from forwarder.storage.items import check_id

HISTORY_PARAMETERS = ("previous_response_id", "conversation")
LOCAL_PARAMETERS = (*HISTORY_PARAMETERS, "background", "background_options")
"""Parameters that are handled here and removed from requests to upstreams."""


class UpstreamMemory(NamedTuple):
    """Storage properties of an upstream.

    ``name`` is the upstream's name. ``stores_responses``: the upstream stores its responses.
    ``has_client_key``: the client uses its own API key there, so that an id unknown here may still
    be valid there. ``can_continue``: the upstream should continue from its own stored response
    instead of receiving the whole history.
    """

    name: str
    stores_responses: bool = False
    has_client_key: bool = False
    can_continue: bool = True


class HistoryReference(NamedTuple):
    """The validated history parameters of a request."""

    previous: str | None
    conversation: str | None

    @property
    def is_set(self) -> bool:
        return self.previous is not None or self.conversation is not None

    @property
    def param(self) -> str:
        """The name of the parameter that is set."""
        return "previous_response_id" if self.conversation is None else "conversation"


NO_HISTORY = HistoryReference(None, None)


def read_history_reference(request: Json) -> HistoryReference:
    """Validate the history parameters. Raises InvalidRequest."""
    if request.keys().isdisjoint(LOCAL_PARAMETERS):  # as in most requests
        return NO_HISTORY
    previous = read_field(request, "previous_response_id", STR, "previous_response_id")
    conversation = read_field(request, "conversation", (str, dict), "conversation")
    if isinstance(conversation, dict):
        conversation = require_field(conversation, "id", STR, "conversation.id")
    read_field(request, "background_options", DICT, "background_options")
    if previous is not None:
        check_id(previous, "previous_response_id")
    if conversation is not None:
        check_id(conversation, "conversation")
    if previous is not None and conversation is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if is_background(request) and not is_stored(request):
        raise InvalidRequest(
            "Invalid value for 'background': background responses require 'store' to be true.",
            param="background",
        )
    return HistoryReference(previous, conversation)


def is_stored(request: Json) -> bool:
    """Whether the response is stored. The default is yes."""
    return "store" not in request or read_field(request, "store", BOOL, "store") is not False


def is_background(request: Json) -> bool:
    """Whether the request asks for a background response."""
    return bool(read_field(request, "background", BOOL, "background"))


def response_not_found(name: str) -> NotFound:
    """The response does not exist, or belongs to another client."""
    return NotFound(f"Response with id '{name[:64]}' not found.", param="response_id")


def conversation_not_found(name: str, param: str | None = None) -> NotFound:
    """The conversation does not exist, or belongs to another client."""
    return NotFound(f"Conversation with id '{name[:64]}' not found.", param=param)
