"""Answers of each kind, for tests of all of them."""

from __future__ import annotations

from .answers import Answer, Call

CITY = Call("get_weather", {"city": "Zürich 🏔"})

ANSWERS = {
    "text": Answer(text="Grüße aus Zürich 🏔"),
    "one_piece": Answer(text="Hello.", pieces=1),
    "reasoning_content": Answer(reasoning="I think.\n\nI am.", text="Hello."),
    "reasoning": Answer(reasoning="I think.", text="Hello.", reasoning_field="reasoning"),
    "reasoning_details": Answer(
        reasoning="I think.", text="Hello.", reasoning_field="reasoning_details"
    ),
    "think": Answer(reasoning="I think.", text="Hello.", reasoning_field="think"),
    "reasoning_text": Answer(reasoning="I think.", text="Hello.", reasoning_form="text"),
    "reasoning_both": Answer(reasoning="I think.", text="Hello.", reasoning_form="both"),
    "one_call": Answer(calls=[CITY]),
    "parallel_calls": Answer(calls=[CITY, Call("now", id="call_mine")]),
    "text_and_call": Answer(text="Let me look.", calls=[CITY]),
    "refusal": Answer(refusal="I cannot."),
    "text_then_refusal": Answer(text="Well.", refusal="I cannot."),
    "length": Answer(text="This is cut in", finish="length"),
    "filtered": Answer(text="This is", finish="content_filter"),
    "no_usage": Answer(text="Hello.", usage=None),
    "empty": Answer(),
}
"""One answer of each kind that the SDK's types can represent."""

CUSTOM = Answer(calls=[Call("apply_patch", kind="custom", input="*** Begin Patch")])
