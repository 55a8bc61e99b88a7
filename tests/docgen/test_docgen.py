"""The documents say what the code says, and what a command in them prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarder import docgen
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.docgen import BLOCKS, COMMAND, ROOT, GeneratedBlock, renew_block

BLOCK = GeneratedBlock("b", "x.md", lambda: r"new \1")
HEAD, TAIL = f"<!-- b: written by `{COMMAND}` -->", "<!-- end of b -->"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_document_says_what_the_code_says(block: GeneratedBlock) -> None:
    said = (ROOT / block.file).read_text(encoding="utf-8")

    assert renew_block(said, block) == said, f"bring {block.file} up to date by: {COMMAND}"


def test_a_block_is_renewed_and_nothing_around_it() -> None:
    made = renew_block(f"before\n{HEAD}\nold\n{TAIL}\nafter\n", BLOCK)

    assert made == f"before\n{HEAD}\n\nnew \\1\n\n{TAIL}\nafter\n"
    assert renew_block(made, BLOCK) == made


@pytest.mark.parametrize("document", ["", f"{HEAD}\n", f"{HEAD}\n{TAIL}\n{HEAD}\n{TAIL}\n"])
def test_a_block_has_one_place(document: str) -> None:
    with pytest.raises(ValueError, match="places for 'b'"):
        renew_block(document, BLOCK)


def test_all_are_written_in_their_places(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for block in BLOCKS:
        with (tmp_path / block.file).open("a", encoding="utf-8") as file:
            file.write(f"<!-- {block.name}: written by `{COMMAND}` -->\n")
            file.write(f"<!-- end of {block.name} -->\n")

    docgen.write_blocks(tmp_path)

    for block in BLOCKS:
        assert block.render() in (tmp_path / block.file).read_text(encoding="utf-8")


def test_the_readme_s_dry_run_prints_what_it_says() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("in a terminal:\n")[2]
    given = section.partition("echo '")[2].partition("'")[0]
    printed = section.partition("```json\n")[2].partition("```")[0]

    app = create_app(Settings.from_env({}))
    result = app.test_cli_runner().invoke(args=["translate"], input=given)

    assert json.loads(result.stdout) == json.loads(printed)
