"""Decides whether a model reasons: only then requests ask for summaries and encrypted reasoning.

The profile's ``reasons`` decides; if it is ``auto``, the model's name does.  Providers and routers
add prefixes and tags to a name (``openai/gpt-5.5``, ``us.anthropic.claude-opus-4-1``,
``deepseek-r1:8b``), so the patterns match anywhere after the last slash.
"""

from __future__ import annotations

import re
from functools import lru_cache

from forwarder.providers.profile import Profile

_REASONING_FAMILIES = (
    r"gpt-?(?:[5-9]|1\d)(?!\d)(?!.*-chat)",  # not Azure's gpt-35-turbo, not gpt-5-chat-latest
    r"gpt-?oss",
    r"o[1-9](?![a-z0-9])",
    r"codex",
    r"claude-(?:3[-.]7|[4-9]|[a-z]+-(?:[4-9]|\d\d|latest)(?!\d))",  # not claude-3-opus-20240229
    r"gemini-(?:2\.5|[3-9]|(?:pro|flash|flash-lite)-latest)",
    r"grok-(?:3-mini|[4-9]|code)",
    r"deepseek-(?:chat-)?v(?:3[.p][1-9]|[4-9])",
    r"r1(?![a-z0-9])",
    r"qwen-?3(?!-max|guard)",
    r"qwq|qvq",
    r"kimi-k(?:2[.p][5-9]|[3-9])",
    r"glm-(?:4[.p][5-9]|[5-9]|z\d)",
    r"magistral",
    r"minimax-m\d",
    r"nemotron-(?:3|nano|super|ultra)",
    r"(?:doubao-)?seed-(?:oss|[1-9])",
    r"mimo-",
    r"hunyuan-[ta]\d",
    r"ernie-x\d",
    r"sonar-deep",
)
"""Models that reason before they answer, at least by default."""

_MAX_CACHED_NAMES = 256
"""For how many model names the decision is cached."""

_FAMILY_PATTERN = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(_REASONING_FAMILIES)})")
_REASONING_PATTERN = re.compile(r"(?<![a-z0-9])(?:think|reason)(?:er|ing)?(?![a-z])")
_NEGATION_PATTERN = re.compile(r"(?<![a-z0-9])non?[-_]?(?:think|reason)")
_NON_REASONING_PATTERN = re.compile(
    r"(?<![a-z])(?:instruct|coder|image|tts|asr|audio|realtime|transcribe|live|embed|embedding|"
    r"rerank|reranker|moderation)(?![a-z])"
)
"""Models of these families that do not reason."""


def is_reasoning_model(profile: Profile, model: str) -> bool:
    """Return True if ``model`` reasons according to its profile or its name."""
    return has_reasoning_name(model) if profile.reasons == "auto" else profile.reasons is True


@lru_cache(maxsize=_MAX_CACHED_NAMES)
def has_reasoning_name(model: str) -> bool:
    name = model.rpartition("/")[2].lower()
    if name.startswith("ft:"):  # ft:<base model>:<names chosen by the owner>
        name = name.split(":")[1]
    if _NEGATION_PATTERN.search(name):
        return False
    if _REASONING_PATTERN.search(name):
        return True
    return bool(_FAMILY_PATTERN.search(name)) and not _NON_REASONING_PATTERN.search(name)
