"""The ``image_generation`` tool: makes and edits images with the operator's image maker.

The model gets one function; its calls are shown as ``image_generation_call`` items with the image
as Base64. The model itself gets only a note: many models cannot see images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import orjson

from forwarder.core.body_memory import BodyReservation, KeptData
from forwarder.core.data_urls import Blob, is_data_url, parse_data
from forwarder.core.types import Event, Json
from forwarder.core.validate import DICT, INT, STR, check_enum, read_field
from forwarder.hosted_tools.greenlet_call import GreenletCall
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    FinishedCall,
    HostedFunction,
    RunningCall,
    make_function_tool,
    parse_arguments,
    parse_item_id,
)
from forwarder.hosted_tools.image_makers import (
    ImageFailure,
    ImageMaker,
    ImageRequest,
)
from forwarder.hosted_tools.mcp_tools import invalid_value
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.tool_kind import (
    HistoryCall,
    SingleFunctionToolSet,
    ToolKind,
    ToolRequest,
    ToolSet,
)
from forwarder.translation.images import make_data_url

FUNCTION = "image_generation"
"""The function that the model calls for an ``image_generation_call``."""

MAX_IMAGES = 8
"""Images of one response; further calls fail."""

MAX_TOTAL_LENGTH = 48 * 2**20
"""Characters of the Base64 of all images of one response."""

MAX_EDITED_IMAGES = 8
"""Images that are edited together: the latest ones of the user's message."""

MAX_EDITED_BYTES = 32 * 2**20
"""Size of the images that are edited together, without Base64."""

MAX_PARTIAL_IMAGES = 3

ENUMS: dict[str, tuple[str, ...]] = {
    "background": ("transparent", "opaque", "auto"),
    "input_fidelity": ("high", "low"),
    "moderation": ("auto", "low"),
    "output_format": ("png", "webp", "jpeg", "gif", "svg"),
    "quality": ("low", "medium", "high", "xhigh", "max", "auto"),
}
"""Fields of the tool that the images API has too, with their values; ``auto`` is not sent."""

MADE_NOTE = "The image was made, and the user sees it. Do not repeat it as a link."
EARLIER_NOTE = "The image was made, and the user has seen it."


class ImageTool(NamedTuple):
    """A validated ``image_generation`` tool; ``mask`` is a data URL."""

    action: str = "auto"
    options: Json = {}
    partial_images: int = 0
    mask: str | None = None


def read_image_tool(tool: Json, path: str) -> ImageTool:
    """Validate an ``image_generation`` tool. Raises InvalidRequest."""
    action = read_field(tool, "action", STR, f"{path}.action") or "auto"
    check_enum(action, ("auto", "generate", "edit"), f"{path}.action")
    options: Json = {}
    for name, values in ENUMS.items():
        value = read_field(tool, name, STR, f"{path}.{name}")
        if value is not None and check_enum(value, values, f"{path}.{name}") != "auto":
            options[name] = value
    size = read_field(tool, "size", STR, f"{path}.size")
    if size not in (None, "auto"):
        options["size"] = size
    compression = read_field(tool, "output_compression", INT, f"{path}.output_compression")
    if compression is not None:
        check_range(compression, 0, 100, f"{path}.output_compression")
        options["output_compression"] = compression
    partial = read_field(tool, "partial_images", INT, f"{path}.partial_images") or 0
    check_range(partial, 0, MAX_PARTIAL_IMAGES, f"{path}.partial_images")
    mask_path = f"{path}.input_image_mask"
    given = read_field(tool, "input_image_mask", DICT, mask_path) or {}
    mask = read_field(given, "image_url", STR, f"{mask_path}.image_url")
    if given and (mask is None or not is_data_url(mask)):
        raise invalid_value(f"{mask_path}.image_url", "it must be a data URL")
    return ImageTool(action, options, partial, mask)


def check_range(value: int, low: int, high: int, path: str) -> None:
    if not low <= value <= high:
        raise invalid_value(path, f"it must be from {low} to {high}")


# -- images of the conversation -------------------------------------------------------------------


def find_latest_images(items: list[Any]) -> list[str]:
    """Return the URLs or file ids of the images of the latest item that has any.

    That is a message of the user or an earlier ``image_generation_call``.
    """
    for item in reversed(items):
        if not isinstance(item, dict):
            continue
        result = item.get("result")
        if item.get("type") == "image_generation_call" and isinstance(result, str) and result:
            return [make_data_url(result, item.get("output_format"))]
        content = item.get("content") if item.get("role") == "user" else None
        parts = content if isinstance(content, list) else []
        images = [
            part for part in parts if isinstance(part, dict) and part.get("type") == "input_image"
        ]
        found = [each.get("image_url") or each.get("file_id") for each in images]
        texts = [each for each in found if isinstance(each, str)]
        if texts:
            return texts[-MAX_EDITED_IMAGES:]
    return []


FetchImage = Callable[[str, str], Blob]
"""A URL and the client -> the image. Raises ToolFailure."""


class ImageSession:
    """The images of one response.

    ``images`` are those that the next edit changes. ``fetch`` is None if URLs are not fetched.
    The images of a running edit count towards the memory limit of bodies. Fetched images are kept
    for further edits until bodies need the memory.
    """

    def __init__(
        self, maker: ImageMaker, tool: ImageTool, request: ToolRequest, fetch: FetchImage | None
    ) -> None:
        self.tool = tool
        self.images = find_latest_images(request.items)
        self._maker = maker
        self._client = request.client.account
        self._memory = request.client.body_memory
        self._fetch = fetch
        self._fetch_lock = threading.Lock()
        self._fetched: dict[str, Blob] = {}
        self._kept = KeptData(self._memory, self._forget_fetched)
        self._count = 0
        self._length = 0

    def close(self) -> None:
        """Forget the fetched images: the response has ended."""
        self._kept.close()
        self._forget_fetched()

    def _forget_fetched(self) -> None:
        self._fetched = {}

    def make_image(self, prompt: str, action: str, call: ImageCall) -> tuple[str, Json]:
        """Make an image; return the output for the model and more fields of the item.

        Raises ToolFailure or ForwarderError.
        """
        self._count += 1
        if self._count > MAX_IMAGES:
            raise ImageFailure(f"A response has at most {MAX_IMAGES} images.")
        with closing(BodyReservation(self._memory)) as memory:
            images = self._load_images(memory) if action == "edit" else []
            if action == "edit" and not images:
                raise ImageFailure("The conversation has no image to edit.")
            tool = self.tool
            mask = self._load_image(tool.mask, memory) if tool.mask and images else None
            request = ImageRequest(prompt, images, mask, tool.options, tool.partial_images)
            made = self._maker.make_image(request, self._client, call)
        self._length += len(made.data)
        if self._length > MAX_TOTAL_LENGTH:
            raise ImageFailure("The images of this response are too large together.")
        self.images = [make_data_url(made.data, made.fields.get("output_format"))]
        shown = {"result": made.data, "action": action, "revised_prompt": prompt}
        return MADE_NOTE, {**shown, **made.fields}

    def _load_images(self, memory: BodyReservation) -> list[Blob]:
        images: list[Blob] = []
        for url in self.images:
            images.append(self._load_image(url, memory))
            if sum(len(image.data) for image in images) > MAX_EDITED_BYTES:
                raise ImageFailure("The images to edit are too large together.")
        return images

    def _load_image(self, url: str, memory: BodyReservation) -> Blob:
        image = self._read_image(url)
        memory.grow(len(image.data))
        return image

    def _read_image(self, url: str) -> Blob:
        if is_data_url(url):
            try:
                return parse_data(url)
            except ValueError as error:
                raise ImageFailure(f"The image {error}.") from None
        if not url.startswith(("http://", "https://")):
            raise ImageFailure("An image that is only named by a file id cannot be edited here.")
        if self._fetch is None:
            raise ImageFailure("Images by URL are not fetched here, so they cannot be edited.")
        with self._fetch_lock:  # edits at the same time fetch an image once
            image = self._fetched.get(url)
            if image is None:
                image = self._fetched[url] = self._fetch(url, self._client)
                self._kept.resize(sum(len(each.data) for each in self._fetched.values()))
        return image


# -- the function ---------------------------------------------------------------------------------


class ImageCall(GreenletCall):
    """A running call; its drafts are events while it runs."""

    def __init__(self, session: ImageSession, prompt: str, action: str, seconds: float) -> None:
        self._changed = threading.Event()
        self._drafts: list[Event] = []
        self._draft_count = 0
        super().__init__(lambda _: session.make_image(prompt, action, self), make_outcome, seconds)

    def add_partial_image(self, data: str, fields: Json) -> None:
        """Add a draft, as Base64, to the events of the call."""
        shown = {name: value for name, value in fields.items() if name != "revised_prompt"}
        self._drafts.append(
            {
                "type": "response.image_generation_call.partial_image",
                "partial_image_index": self._draft_count,
                "partial_image_b64": data,
                **shown,
            }
        )
        self._draft_count += 1
        self._changed.set()

    def take_events(self) -> list[Event]:
        """Return the drafts since the last call, without the place of the item."""
        drafts, self._drafts = self._drafts, []
        return drafts

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end of the call or for a draft; return whether the call has ended."""
        self._changed.wait(self.limit_wait(seconds))
        self._changed.clear()
        return super().wait(0)

    def cancel(self) -> None:
        super().cancel()
        self._changed.set()

    def on_end(self) -> None:
        self._changed.set()


def make_image_item(item_id: str) -> Json:
    """Make the item of a call that begins."""
    return {
        "id": item_id,
        "type": "image_generation_call",
        "status": "in_progress",
        "result": None,
    }


class ImageFunction(HostedFunction):
    """The function that makes images; ``seconds`` limits each call."""

    id_prefix = "ig"
    start_events = (
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
    )

    def __init__(self, session: ImageSession, seconds: float) -> None:
        super().__init__(FUNCTION)
        self._session = session
        self._seconds = seconds

    @property
    def definition(self) -> Json:
        text = "What the image shows and how, or what to change in the image that is edited."
        properties: Json = {"prompt": {"type": "string", "description": text}}
        if self._session.tool.action == "auto":
            properties["action"] = {
                "type": "string",
                "enum": ["generate", "edit"],
                "description": "'edit' changes the latest image of the conversation.",
            }
        schema = {
            "type": "object",
            "properties": properties,
            "required": ["prompt"],
            "additionalProperties": False,
        }
        description = "Make or edit an image. The user sees it, but you do not."
        return make_function_tool(self.name, description, schema)

    def make_item(self, item_id: str, arguments: str) -> Json:
        return make_image_item(item_id)

    def cut_item(self, item: Json) -> Json:
        return {**item, "status": "failed"}  # these items have no status "incomplete"

    def start_call(self, arguments: str) -> RunningCall:
        values = parse_arguments(arguments) or {}
        prompt = values.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            message = "The arguments of the call lack 'prompt'."
            return FinishedCall(lambda item: make_outcome(item, "failed", message))
        action = self._session.tool.action
        if action == "auto":
            action = "edit" if values.get("action") == "edit" else "generate"
        return ImageCall(self._session, prompt.strip(), action, self._seconds)

    def take_events(self, call: RunningCall) -> list[Event]:
        return call.take_events() if isinstance(call, ImageCall) else []


def make_outcome(item: Json, status: str, output: str, fields: Json | None = None) -> CallOutcome:
    if status == "completed":
        done = {**item, **(fields or {}), "status": status}
        return CallOutcome(done, ("response.image_generation_call.completed",), output)
    error = {"type": "image_generation_error", "message": output}
    return CallOutcome({**item, "status": status, "error": error}, (), output)


# -- the kind -------------------------------------------------------------------------------------


class ImageGenerationKind(ToolKind):
    """``maker`` is None if none is configured; then image items are passed on unchanged."""

    name = "image_generation"
    tool_types = frozenset({"image_generation"})

    def __init__(
        self, maker: ImageMaker | None, fetch: FetchImage | None = None, seconds: float = 180.0
    ) -> None:
        self.item_types = frozenset({"image_generation_call"} if maker is not None else ())
        self._maker = maker
        self._fetch = fetch
        self._seconds = seconds

    def can_run(self, tool: Json, client: ToolClient) -> bool:
        return self._maker is not None

    def open_tools(self, request: ToolRequest) -> ToolSet:
        """Open the tool of a request; only the first of several is used."""
        if self._maker is None or not request.tools:
            return ImageToolSet(None, self._seconds)
        path, tool = request.tools[0]
        session = ImageSession(self._maker, read_image_tool(tool, path), request, self._fetch)
        return ImageToolSet(session, self._seconds)


class ImageToolSet(SingleFunctionToolSet):
    """The image generation of one request, if it has one."""

    def __init__(self, session: ImageSession | None, seconds: float) -> None:
        super().__init__(None if session is None else ImageFunction(session, seconds))
        self._session = session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def owns_item(self, item: Json) -> bool:
        """Whether this tool made the item. Images of other origins are passed on unchanged."""
        return parse_item_id(str(item.get("id"))).round_token is not None

    def convert_item(self, item: Json, index: int) -> HistoryCall | None:
        path = f"input[{index}]"
        read_field(item, "result", STR, f"{path}.result")
        prompt = read_field(item, "revised_prompt", STR, f"{path}.revised_prompt") or ""
        error = item.get("error")
        failed = error.get("message") if isinstance(error, dict) else None
        output = EARLIER_NOTE if item.get("result") else str(failed or "No image was made.")
        action = {"action": "edit"} if item.get("action") == "edit" else {}
        arguments = orjson.dumps({"prompt": prompt, **action}).decode()
        return HistoryCall(item["id"], FUNCTION, arguments, output)
