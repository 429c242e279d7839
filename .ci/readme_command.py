"""Print one of the README's two set-up commands: `run` (the main job) or `test`."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def command(name: str) -> str:
    """Return the command under the README's marker `<!-- command: NAME -->`.

    Raises:
        SystemExit: there is none.
    """
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- command: {re.escape(name)} -->\s*```sh\n(.*?)\n```", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"README.md has no command marked `{name}`")
    return found.group(1).replace("\\\n", " ").strip()


if __name__ == "__main__":
    print(command(sys.argv[1]))
