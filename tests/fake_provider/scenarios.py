"""Answers of the scripted model if the prompt names a scenario, ``[[scenario:NAME key=value …]]``.

The last user message with such a marker counts. Scenarios with tools depend on the steps since the
marker: after the results of the tools, they answer with a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .answers import Answer, Call, Json, ModelRequest, dumps
from .history import Step, Turn, list_steps
from .offers import Tool, list_offered_tools, make_sample

MARKER = re.compile(r"\[\[scenario:(\w+)((?:\s+\w+=[^\s\]]+)*)\s*\]\]")

HELLO = "Hello from the scripted upstream."
THOUGHT = "The user asks. I think, therefore I answer."
UNICODE = "Zürich 🏔 “quoted” \\ 日本語 العربية 👩‍👩‍👧 a\u2028b\u2029c\u0085d\u200be\tf\ng 𝕏"
PATCH = '*** Begin Patch\n*** Add File: {file}\n+héllo "quoted" \\ back\n*** End Patch'


@dataclass(frozen=True)
class Scene:
    """A request with its marker: the options, the tools, and the steps since the marker."""

    request: ModelRequest
    options: dict[str, str]
    tools: Sequence[Tool]
    since: Sequence[Step]

    @property
    def results(self) -> list[str]:
        """The results of the tools."""
        return [step.text for step in self.since if step.kind == "result"]

    @property
    def called_tools(self) -> list[str]:
        """The names of the tools that were called."""
        return [step.text for step in self.since if step.kind == "call"]

    def tool(self, *names: str) -> Tool | None:
        """Return the first offered tool with one of these names, in the order of the names."""
        matches = (tool for name in names for tool in self.tools if name in (tool.name, tool.bare))
        return next(matches, None)

    def make_final_answer(self) -> Answer:
        """Return the text after the last tool result, which repeats the results for checks."""
        return Answer(text=f"Done: {' | '.join(self.results)[:300]}")


def answer(request: ModelRequest, earlier: Turn | None = None) -> Answer:
    """Return the model's answer to a request."""
    steps = list_steps(request, earlier)
    for number, step in reversed(list(enumerate(steps))):
        if step.kind == "user" and (marker := MARKER.search(step.text)):
            options = dict(pair.split("=", 1) for pair in marker[2].split())
            scene = Scene(request, options, list_offered_tools(request), steps[number + 1 :])
            return SCENARIOS[marker[1]](scene)
    return Answer(text=HELLO)


def text(scene: Scene) -> Answer:
    return Answer(text=HELLO)


def unicode(scene: Scene) -> Answer:
    return Answer(text=UNICODE, pieces=9)


def long(scene: Scene) -> Answer:
    """``n`` words, each a delta."""
    count = int(scene.options.get("n", "200"))
    return Answer(text="".join(f"w{i:04d} " for i in range(count)), pieces=count)


def reasoning(scene: Scene) -> Answer:
    return Answer(reasoning=THOUGHT, text=HELLO, reasoning_field="reasoning")


def reasoning_content(scene: Scene) -> Answer:
    return Answer(reasoning=THOUGHT, text=HELLO)


def reasoning_details(scene: Scene) -> Answer:
    return Answer(reasoning=THOUGHT, text=HELLO, reasoning_field="reasoning_details")


def reasoning_summary(scene: Scene) -> Answer:
    """A summary in two parts."""
    return Answer(reasoning=f"**First**\n{THOUGHT}\n\n**Second**\n{THOUGHT}", text=HELLO)


def reasoning_text(scene: Scene) -> Answer:
    return Answer(reasoning=THOUGHT, text=HELLO, reasoning_form="text")


def think(scene: Scene) -> Answer:
    return Answer(reasoning=THOUGHT, text=HELLO, reasoning_field="think", pieces=7)


def reasoning_tool(scene: Scene) -> Answer:
    """Reasoning before a call. The client must send it back with the tool's result."""
    return _call_functions(scene, 1, reasoning=THOUGHT)


def refusal(scene: Scene) -> Answer:
    return Answer(refusal="I cannot help with that.")


def length(scene: Scene) -> Answer:
    return Answer(text="This sentence is cut in the", finish="length")


def content_filter(scene: Scene) -> Answer:
    return Answer(text="This is not", finish="content_filter")


def empty(scene: Scene) -> Answer:
    return Answer()


def json_schema(scene: Scene) -> Answer:
    """A value of the requested schema."""
    body = scene.request.body
    response_format = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    schema: Json = (response_format.get("json_schema") or response_format).get("schema") or {}
    return Answer(text=dumps(make_sample(schema)))


def one_tool(scene: Scene) -> Answer:
    return _call_functions(scene, 1)


def parallel_tools(scene: Scene) -> Answer:
    return _call_functions(scene, 2)


def text_and_tool(scene: Scene) -> Answer:
    return _call_functions(scene, 1, text="Let me look that up.")


def named_tool(scene: Scene) -> Answer:
    """Calls the tool named by ``tool``."""
    tool = scene.tool(scene.options["tool"])
    if scene.results or tool is None:
        return scene.make_final_answer()
    return Answer(calls=[tool.make_call()])


def handoff(scene: Scene) -> Answer:
    """Calls the transfer tool, then a tool of the agent that took over, if it has one."""
    transfer = [tool for tool in scene.tools if tool.bare.startswith("transfer_to_")]
    others = [tool for tool in scene.tools if tool not in transfer]
    if transfer and not scene.called_tools:
        return Answer(calls=[transfer[0].make_call()])
    if others and len(scene.called_tools) < 2:
        return Answer(calls=[others[0].make_call()])
    return scene.make_final_answer()


def shell_loop(scene: Scene) -> Answer:
    """Creates a ``file`` with the shell tool, whatever its name."""
    call = _make_shell_call(scene)
    if scene.results or call is None:
        return scene.make_final_answer()
    return Answer(text="I will create the file.", calls=[call])


def apply_patch_loop(scene: Scene) -> Answer:
    """Adds a ``file`` with a patch."""
    call = _make_patch_call(scene)
    return scene.make_final_answer() if scene.results or call is None else Answer(calls=[call])


def shell_then_patch(scene: Scene) -> Answer:
    """Creates ``file`` with the shell, then ``patched`` with a patch."""
    planned_calls = [
        _make_shell_call(scene),
        _make_patch_call(scene, scene.options.get("patched", "patched.txt")),
    ]
    calls = [call for call in planned_calls if call][len(scene.called_tools) :]
    return Answer(calls=calls[:1]) if calls else scene.make_final_answer()


def _call_functions(
    scene: Scene, count: int, *, text: str | None = None, reasoning: str | None = None
) -> Answer:
    """Calls the first function ``count`` times, until there are results."""
    functions = [tool for tool in scene.tools if tool.kind == "function"]
    if scene.results or not functions:
        return scene.make_final_answer()
    calls = [functions[0].make_call() for _ in range(count)]
    return Answer(text=text, reasoning=reasoning, calls=calls)


def _make_patch_call(scene: Scene, file: str | None = None) -> Call | None:
    tool = scene.tool("apply_patch")
    if tool is None:
        return None
    return tool.with_input(PATCH.format(file=file or scene.options.get("file", "new.txt")))


def _make_shell_call(scene: Scene) -> Call | None:
    command = f"printf 'made by the scripted model' > {scene.options.get('file', 'made.txt')}"
    for name, call in SHELLS.items():
        if tool := scene.tool(name):
            return call(tool, command)
    return None


SHELLS: dict[str, Callable[[Tool, str], Call]] = {
    "exec_command": lambda tool, command: Call(
        tool.name, {"cmd": command}, namespace=tool.namespace
    ),
    "shell_command": lambda tool, command: Call(tool.name, {"command": command}),
    "shell": lambda tool, command: Call(tool.name, {"command": ["bash", "-lc", command]}),
    "exec": lambda tool, command: tool.with_input(
        f"const r = await tools.exec_command({{cmd: {dumps(command)}}}); text(JSON.stringify(r));"
    ),
}
"""Name of a shell tool, in order of preference -> a function that makes a call of it."""

SCENARIOS: dict[str, Callable[[Scene], Answer]] = {
    scenario.__name__: scenario
    for scenario in (
        text,
        unicode,
        long,
        reasoning,
        reasoning_content,
        reasoning_details,
        reasoning_summary,
        reasoning_text,
        think,
        reasoning_tool,
        refusal,
        length,
        content_filter,
        empty,
        json_schema,
        one_tool,
        parallel_tools,
        text_and_tool,
        named_tool,
        handoff,
        shell_loop,
        apply_patch_loop,
        shell_then_patch,
    )
}
"""Name in the marker -> the scenario."""
