"""``python -m tools.docgen``: prints the generated parts, or writes them into ``docs/``."""

from __future__ import annotations

import argparse
import sys

from tools.docgen.blocks import BLOCKS, write_blocks


def main(arguments: list[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    parser = argparse.ArgumentParser("python -m tools.docgen", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them into docs/ instead")
    if parser.parse_args(arguments).write:
        write_blocks()
    else:
        sys.stdout.write("\n\n".join(block.render() for block in BLOCKS) + "\n")


if __name__ == "__main__":
    main()
