"""The protocols. No other module branches on their names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import forwarder
from forwarder.protocols.protocol import OPENAI_API
from forwarder.protocols.registry import (
    CLIENT_PROTOCOLS,
    EMBEDDING_PROTOCOLS,
    PROTOCOLS,
    UPSTREAM_PROTOCOLS,
    find_api,
)
from forwarder.translation import TRANSLATIONS
from tests.helpers.check_cases import check_each

PACKAGE = Path(forwarder.__file__).parent

ALLOWED_PATHS = ("pipeline/", "upstream/")
"""The declared pipeline, and the package that calls the upstreams' two APIs."""

LITERALS = PROTOCOLS.keys() - {"messages"}
"""Literals that are protocol names. ``messages`` is excluded, because it is also a parameter."""


def test_every_protocol_is_found_by_its_own_name() -> None:
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert PROTOCOLS.keys() == CLIENT_PROTOCOLS.keys() | EMBEDDING_PROTOCOLS.keys()
    assert CLIENT_PROTOCOLS.keys() >= UPSTREAM_PROTOCOLS.keys()


def test_every_client_protocol_has_a_translation_and_an_upstream_api() -> None:
    assert PROTOCOLS.keys() - {"embeddings"} == {client for client, _ in TRANSLATIONS}
    for protocol in PROTOCOLS.values():
        assert protocol.upstream_api in UPSTREAM_PROTOCOLS
    for client in CLIENT_PROTOCOLS.values():
        carriers = {
            upstream_api: carrier.protocol for upstream_api, carrier in client.served_as.items()
        }
        assert carriers.keys() == (UPSTREAM_PROTOCOLS.keys() if carriers else set())
        assert carriers.keys() >= set(carriers.values())
        assert all((client.name, carrier) in TRANSLATIONS for carrier in carriers.values())


def test_every_request_has_an_api() -> None:
    for protocol in PROTOCOLS.values():
        assert protocol.paths
        for path in protocol.paths:
            assert find_api(path, lambda name: False) is protocol.api
    assert find_api("/v1/models", lambda name: name == "anthropic-version").make_model_page
    assert find_api("/v1/models", lambda name: False) is OPENAI_API


@check_each("name", CLIENT_PROTOCOLS)
def test_framing_writes_events_that_end_with_a_line(name: str) -> None:
    framing = CLIENT_PROTOCOLS[name].framing
    assert framing.encode([{"type": "x"}, {"type": "y"}]).endswith(b"\n")
    assert framing.keep_alive
    assert framing.mimetype in ("text/event-stream", "application/x-ndjson")


def find_comparisons(tree: ast.Module) -> Iterator[tuple[int, bool]]:
    """Lines that compare a value with a protocol's name, and whether the name is a literal."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        for operand in (part for side in (node.left, *node.comparators) for part in ast.walk(side)):
            if isinstance(operand, ast.Constant) and operand.value in LITERALS:
                yield node.lineno, True
            elif is_name_of_protocol(operand) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
                yield node.lineno, False


def is_name_of_protocol(node: ast.AST) -> bool:
    names = ("CHAT.name", "RESPONSES.name", "EMBEDDINGS.name", "MESSAGES.name")
    return isinstance(node, ast.Attribute) and ast.unparse(node) in names


@check_each("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_branches_on_a_protocol_name(path: Path) -> None:
    relative_path = str(path.relative_to(PACKAGE))
    text = path.read_text(encoding="utf-8")
    if not any(f'"{name}"' in text for name in LITERALS) and ".name" not in text:
        return  # skips parsing, which takes a hundred times longer
    comparisons = list(find_comparisons(ast.parse(text)))

    assert [line for line, is_literal in comparisons if is_literal] == []
    assert comparisons == [] or relative_path.startswith(ALLOWED_PATHS)


def test_comparisons_are_found() -> None:
    source = "a == 'chat'\nb in ('responses', 'x')\nc != CHAT.name\nd == 'other'\n"
    source += "CHAT.name in upstream.apis\n"
    assert list(find_comparisons(ast.parse(source))) == [(1, True), (2, True), (3, False)]
