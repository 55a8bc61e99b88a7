"""Chat chunks -> Responses events.

What is open is in ``_open`` and ``_calls``; what was made is in ``_items``.  Text, reasoning,
refusals and images follow each other, so opening one closes the other; calls may interleave with
anything and stay open until the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from forwarder.core.errors import UpstreamError
from forwarder.core.translation_context import Terms
from forwarder.core.types import Batch, Json, Stream
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import AnswerChoice, read_delta
from forwarder.protocols.mappings import (
    FAILED_FINISHES,
    INCOMPLETE_REASONS,
    SEALED,
    failure,
    moderation_to_responses,
    read_usage,
    tier_to_responses,
    usage_to_responses,
)
from forwarder.protocols.signatures import SignatureCollector
from forwarder.translation.responses_over_chat import images, logprobs
from forwarder.translation.responses_over_chat.calls import CALLS, Calls
from forwarder.translation.responses_over_chat.citations import Citations
from forwarder.translation.responses_over_chat.items import Item, Message, Reasoning
from forwarder.translation.responses_over_chat.request import Prepared
from forwarder.translation.responses_over_chat.response_skeleton import blank_response


def translate_stream(chunks: Stream, prepared: Prepared, terms: Terms) -> Stream:
    """Give the Responses events for a chat stream, batch by batch, numbered from 0."""
    answer = Answer(prepared, terms)
    number = itertools.count()
    begun = answer.begin()
    for batch in chunks:
        events: Batch = []
        try:
            for chunk in batch:
                events += answer.take(chunk)
        except UpstreamError:
            if events:  # what came with the failure came before it
                yield _numbered([*begun, *events], number)
            raise
        if begun:
            events, begun = [*begun, *events], []
        if events or not batch:  # an empty batch is a heartbeat
            yield _numbered(events, number)
    yield _numbered([*begun, *answer.finish()], number)


def _numbered(events: Batch, number: Iterator[int]) -> Batch:
    """The one door out: sequence numbers are given here."""
    for event in events:
        event["sequence_number"] = next(number)
    return events


_RARE = frozenset({"error", "moderation", "x_groq"})
"""What hardly a chunk has."""


class Answer:
    """One response in the making."""

    def __init__(self, prepared: Prepared, terms: Terms) -> None:
        self._terms = terms
        mint = terms.mint
        self._response = blank_response(prepared.original, mint.id("resp"), mint.now())
        include = prepared.original.get("include") or []
        self._shows_seals = SEALED in include
        self._seals = self._shows_seals or terms.stores_seals
        # By their places in the output: what is stored but not streamed.
        self._hidden_seals: dict[int, str] = {}
        self._hidden_items: list[tuple[int, Json]] = []
        self._splitter: chat_reasoning.ThinkSplitter | None = chat_reasoning.ThinkSplitter()
        self._signatures = SignatureCollector()
        self._items: list[Item] = []
        self._open: Message | Reasoning | images.Image | None = None
        self._calls = Calls(self._items, prepared.toolbox, mint, self._signatures)
        self._logprobs: list[Json] = []  # until their text comes
        self._citations = Citations()
        self._pictures: set[images.Picture] = set()
        self._blanks: list[str] = []  # white space that may begin a thought
        self._answer_choice = AnswerChoice()
        self._finish = "stop"
        self._usage: Json | None = None

    def begin(self) -> Batch:
        """The two events that every response starts with."""
        started = dict(self._response)
        return [
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
        ]

    def take(self, chunk: Json) -> Batch:
        """The events that one chunk causes."""
        choices = chunk.get("choices")
        if not choices:
            self._note(chunk)
            return []
        tier = chunk.get("service_tier")
        fresh = tier and tier != self._response["service_tier"]
        if fresh or chunk.get("usage") or not _RARE.isdisjoint(chunk):
            self._note(chunk)
        choice = self._answer_choice.find(choices)
        return self._choice(choice) if choice else []

    def _note(self, chunk: Json) -> None:
        """What a chunk tells beside its choice."""
        if chunk.get("error"):
            raise failure(chunk["error"])
        self._usage = read_usage(chunk) or self._usage
        if moderation := moderation_to_responses(chunk.get("moderation")):
            self._response["moderation"] = {**self._response.get("moderation", {}), **moderation}
        tier = chunk.get("service_tier")
        if tier and isinstance(tier, str):
            self._response["service_tier"] = tier_to_responses(tier)

    def finish(self) -> Batch:
        """Close what is open and end: completed, or incomplete with its reason."""
        reason = INCOMPLETE_REASONS.get(self._finish)
        status = "incomplete" if reason else "completed"
        events = [*self._rest_of_split(), *self._lone_citations(), *self._close_all(status)]
        events += self._seal_rest()
        if not self._items:
            # Clients index output[0]; a cut or filtered answer may well be empty.
            events += [*self._say(""), *self._close_open(status)]
        self._response.update(
            status=status,
            completed_at=None if reason else self._terms.mint.now(),
            incomplete_details={"reason": reason} if reason else None,
            output=self._output(),
            usage=usage_to_responses(self._usage),
        )
        return [*events, {"type": f"response.{status}", "response": self._response}]

    # -- reading a choice -----------------------------------------------------------------------

    def _choice(self, choice: Json) -> Batch:
        delta = read_delta(choice)
        content = delta.get("content")
        if choice.get("logprobs") and (content or not _says_more_than_text(delta)):
            self._logprobs += _weights(choice, delta)
        events = self._delta(delta) if len(delta) > 1 else self._alone(delta, content)
        if choice.get("finish_reason"):
            self._end(choice)
        return events

    def _alone(self, delta: Json, content: Any) -> Batch:
        """The hot path: most chunks hold a piece of text or of a thought, and nothing else."""
        if type(content) is str:
            return self._text(content) if content else []
        thought = delta.get("reasoning_content")
        return self._think(thought) if thought and type(thought) is str else self._delta(delta)

    def _delta(self, delta: Json) -> Batch:
        events: Batch = []
        self._signatures.take_delta(delta)
        thought = chat_reasoning.read(delta)
        if thought:
            events += self._think(thought)
        if delta.get("content"):
            events += self._content(delta["content"])
        if delta.get("annotations"):
            events += self._cite(delta["annotations"])
        if delta.get("images"):
            events += [event for image in delta["images"] for event in self._picture(image)]
        if delta.get("refusal"):
            events += self._refuse("".join(delta["refusal"]))
        if delta.get("tool_calls") or delta.get("function_call"):
            events += self._tool_calls(delta)
        return events

    def _end(self, choice: Json) -> None:
        self._finish = choice["finish_reason"]
        self._usage = self._usage or choice.get("usage")
        if self._finish in FAILED_FINISHES:
            error = choice.get("error") or {"message": f"The upstream ended with '{self._finish}'."}
            raise failure(error)

    def _content(self, content: Any) -> Batch:
        if isinstance(content, str):
            return self._text(content)
        return [event for part in content for event in self._part(part)]

    def _part(self, part: Any) -> Batch:
        """A part of a content list, as Mistral and others send it."""
        thought, text = chat_reasoning.split_parts([part])
        if thought or text:
            return self._think(thought) if thought else self._text(text)
        return self._picture(part)

    def _text(self, text: str) -> Batch:
        if self._splitter is None:
            return self._say(text)
        pieces = list(self._splitter.feed(text))
        if self._splitter.thinking:
            self._logprobs = []  # thoughts have no place for them
        elif self._logprobs and pieces and len(pieces[-1][1]) < len(text):
            self._logprobs = logprobs.of_end(self._logprobs, pieces[-1][1])
        if self._splitter.passed:
            self._splitter = None
        return self._split(pieces)

    def _split(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        events: Batch = []
        for kind, piece in pieces:
            events += self._think(piece) if kind == "reasoning" else self._say(piece)
        return events

    def _rest_of_split(self) -> Batch:
        if self._splitter is None:
            return []
        pieces, self._splitter = list(self._splitter.flush()), None
        return self._split(pieces)

    # -- items ----------------------------------------------------------------------------------

    def _say(self, text: str) -> Batch:
        message = self._open
        if type(message) is Message and not self._logprobs:
            return message.text(text)
        events, message = self._message()
        if not self._logprobs:
            return [*events, *message.text(text)]
        entries, self._logprobs = self._logprobs, []
        return [*events, *message.weighed_text(text, entries)]

    def _refuse(self, text: str) -> Batch:
        events, message = self._message()
        return [*events, *message.refusal(text)]

    def _message(self) -> tuple[Batch, Message]:
        """The open message, and the events of its beginning when it was not yet."""
        if type(self._open) is Message:
            return [], self._open
        events = self._close_open("completed")
        if self._signatures.has_message:
            events += self._seal_signatures()
        self._open = message = Message(self._terms.mint.id("msg"), len(self._items))
        self._items.append(message)
        return [*events, *message.open()], message

    def _think(self, text: str) -> Batch:
        if type(self._open) is Reasoning:
            return self._open.grow(text) if text else []
        if text and not text.strip():  # white space alone is no thought
            self._blanks.append(text)
            return []
        text = "".join([*self._blanks, text])
        events = self._close_open("completed")
        item_id = self._terms.mint.id("rs")
        self._open = thought = Reasoning(item_id, len(self._items), self._terms.reasoning)
        self._items.append(thought)
        return [*events, *thought.open(), *(thought.grow(text) if text else ())]

    def _picture(self, given: Any) -> Batch:
        picture = images.picture(given)
        if picture is None or picture in self._pictures:  # said twice, in two places
            return []
        self._pictures.add(picture)
        events = self._rest_of_split()
        if picture.url:
            return [*events, *self._say(self._apart(images.markdown(picture.url)))]
        if isinstance(self._open, images.Image) and self._open.is_begun_by(picture):
            return [*events, *self._open.grow(picture)]
        events += self._close_open("completed")
        self._open = images.Image(self._terms.mint.id("ig"), len(self._items), picture)
        self._items.append(self._open)
        return [*events, *self._open.open()]

    def _apart(self, text: str) -> str:
        """As a paragraph of its own behind the text that is open."""
        return f"\n\n{text}" if type(self._open) is Message and self._open.says else text

    def _cite(self, annotations: Any) -> Batch:
        self._citations.take(annotations)
        message = self._open
        return self._annotate(message) if type(message) is Message and message.says else []

    def _annotate(self, message: Message) -> Batch:
        """Annotate the text that is open; positions are told from its own beginning."""
        if not self._citations.waiting:
            return []
        before = sum(item.length for item in self._items if type(item) is Message)
        given = self._citations.give(before)
        return [event for annotation in given for event in message.annotate(annotation)]

    def _tool_calls(self, delta: Json) -> Batch:
        events = self._rest_of_split() if not self._calls.begun else []
        if self._open is not None:
            events += self._close_open("completed")
        if self._signatures.has_message and not self._calls.begun:
            events += self._seal_signatures()
        return [*events, *self._calls.take(delta)]

    # -- closing --------------------------------------------------------------------------------

    def _close_all(self, status: str) -> Batch:
        """Close the calls, then what was opened after them: only the last was cut off, if any."""
        return [*self._calls.close(status, self._open is None), *self._close_open(status)]

    def _lone_citations(self) -> Batch:
        """Annotations whose text is closed, or never came, get an empty one."""
        said = type(self._open) is Message and self._open.says
        return self._say("") if self._citations.waiting and not said else []

    def _close_open(self, status: str) -> Batch:
        item, self._open, self._blanks = self._open, None, []
        if item is None:
            return []
        if isinstance(item, Reasoning) and self._seals:
            self._seal_thought(item)
        late = self._late(item) if type(item) is Message and item.says else []
        return [*late, *item.close(status)]

    def _late(self, message: Message) -> Batch:
        """What came beside the text of a message that is to be closed, with no text after it."""
        entries, self._logprobs = self._logprobs, []
        weighed = message.weighed_text("", entries) if entries else []
        return [*weighed, *self._annotate(message)]

    # -- what the provider wants back -----------------------------------------------------------

    def _seal(self, thought: Json) -> str:
        """Seal a thought together with the signatures that came with it."""
        origin = {"origin": self._terms.origin} if self._terms.origin else {}
        return self._terms.seal({**thought, **self._signatures.pop_message(), **origin})

    def _seal_thought(self, item: Reasoning) -> None:
        sealed = self._seal({"reasoning_content": "".join(item.pieces)})
        if self._shows_seals:
            item.sealed = sealed
        else:
            self._hidden_seals[self._items.index(item)] = sealed

    def _seal_signatures(self, **more: Any) -> Batch:
        """A reasoning item without a text, for signatures that came with none.

        A client that did not ask for seals does not see it.
        """
        if not self._seals:
            if not self._terms.recalls:
                reason = "the answer has signatures, which are neither included nor remembered"
                self._terms.ledger.note("output.signatures", reason)
            return []
        item_id, index = self._terms.mint.id("rs"), len(self._items)
        item = Reasoning(item_id, index, self._terms.reasoning)
        item.sealed = self._seal(more)
        events = [*item.open(), *item.close("completed")]
        if not self._shows_seals:
            self._hidden_items.append((index, item.done))
            return []
        self._items.append(item)
        return events

    def _seal_rest(self) -> Batch:
        """Seal signatures that are known only behind what they belong to."""
        calls = self._calls.signatures
        if not calls and not self._signatures.has_message:
            return []
        return self._seal_signatures(ends_turn=True, **({"calls": calls} if calls else {}))

    def _output(self) -> list[Json]:
        """All items, with what is hidden from the client until it is stored."""
        output = [item.done for item in self._items]
        for index, sealed in self._hidden_seals.items():
            output[index] = {**output[index], "encrypted_content": sealed}
        for index, item in reversed(self._hidden_items):
            output.insert(index, item)
        return output


def _weights(choice: Json, delta: Json) -> list[Json]:
    """The log probabilities of a text, without those of what is said along with it."""
    entries, content = logprobs.read(choice["logprobs"]), delta.get("content")
    if type(content) is not str or not _says_more_than_text(delta):
        return entries
    is_last = not any(map(delta.get, CALLS))
    return logprobs.of_text(entries, chat_reasoning.read(delta), content, is_last)


def _says_more_than_text(delta: Json) -> bool:
    """Log probabilities that come with this delta may be those of something else than a text."""
    return bool(chat_reasoning.read(delta) or any(map(delta.get, ("refusal", *CALLS))))
