"""The documentation matches the code and the output of its commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.helpers.check_cases import check_each
from tools.docgen.__main__ import main
from tools.docgen.blocks import BLOCKS, COMMAND, ROOT, Block, replace_block, write_blocks

BLOCK = Block("b", "x.md", lambda: r"new \1")
HEAD, TAIL = f"<!-- b: written by `{COMMAND}` -->", "<!-- end of b -->"


@check_each("block", BLOCKS, ids=lambda block: block.name)
def test_generated_blocks_match_the_code(block: Block) -> None:
    page = (ROOT / block.file).read_text(encoding="utf-8")

    assert replace_block(page, block) == page, f"bring {block.file} up to date by: {COMMAND}"


def test_only_the_block_is_replaced() -> None:
    replaced = replace_block(f"before\n{HEAD}\nold\n{TAIL}\nafter\n", BLOCK)

    assert replaced == f"before\n{HEAD}\n\nnew \\1\n\n{TAIL}\nafter\n"
    assert replace_block(replaced, BLOCK) == replaced


@check_each("document", ["", f"{HEAD}\n", f"{HEAD}\n{TAIL}\n{HEAD}\n{TAIL}\n"])
def test_block_needs_exactly_one_pair_of_markers(document: str) -> None:
    with pytest.raises(ValueError, match="places for 'b'"):
        replace_block(document, BLOCK)


def test_all_blocks_are_written(tmp_path: Path) -> None:
    for block in BLOCKS:
        path = tmp_path / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"<!-- {block.name}: written by `{COMMAND}` -->\n")
            file.write(f"<!-- end of {block.name} -->\n")

    write_blocks(tmp_path)

    for block in BLOCKS:
        assert block.render() in (tmp_path / block.file).read_text(encoding="utf-8")


def test_command_prints_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    main([])

    printed = capsys.readouterr().out
    assert all(block.render() in printed for block in BLOCKS)


def test_command_writes_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bool] = []
    for name in ("write_blocks", "write_schemas"):
        monkeypatch.setattr(f"tools.docgen.__main__.{name}", lambda: written.append(True))

    main(["--write"])

    assert written == [True, True]


def test_dry_run_page_shows_the_output_of_the_command() -> None:
    page = (ROOT / "docs/dry-run.md").read_text(encoding="utf-8")
    request = page.partition("echo '")[2].partition("'")[0]
    printed = page.partition("```json\n")[2].partition("```")[0]

    app = create_app(Settings.from_env({}))
    result = app.test_cli_runner().invoke(args=["translate"], input=request)

    report = json.loads(result.stdout)
    del report["fates"]  # deprecated: the dispositions once more
    assert report == json.loads(printed)
