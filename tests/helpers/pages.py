"""The pages of the documentation, and the blocks of code in them."""

import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

NOTEBOOK = "notebooks/lesson.ipynb"


class ShellBlock(NamedTuple):
    """A block of commands. reason: why it can't be run in a small project, by the comment above it."""

    text: str
    reason: str | None


def read(page: str) -> str:
    """The text of a page; of a notebook, that of its Markdown cells."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if not page.endswith(".ipynb"):
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(page: str, language: str) -> list[str]:
    """All blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def shell_blocks(page: str) -> list[ShellBlock]:
    found = re.findall(r"^(?:<!-- not run: ([^\n]+) -->\n)?```sh\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)
    return [ShellBlock(text, reason or None) for reason, text in found]
