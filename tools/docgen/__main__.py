"""``python -m tools.docgen``: prints the generated parts, or writes them into ``docs/``.

It also writes the schemas of the SDK's types into the package (see `sdk_schemas.py`).
"""

from __future__ import annotations

import argparse
import sys

from tools.docgen.blocks import BLOCKS, write_blocks
from tools.docgen.sdk_schemas import write_schemas


def main(arguments: list[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    parser = argparse.ArgumentParser("python -m tools.docgen", description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write the parts and the schemas instead of printing"
    )
    if parser.parse_args(arguments).write:
        write_blocks()
        write_schemas()
    else:
        sys.stdout.write("\n\n".join(block.render() for block in BLOCKS) + "\n")


if __name__ == "__main__":
    main()
