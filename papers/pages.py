"""Sections of docs/papers.md: tables and lists in Markdown, between two marks that name the preset."""

import re
from collections.abc import Mapping, Sequence
from textwrap import fill


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the lines of a table of these rows, which have the same columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def bullets(texts: Sequence[str]) -> list[str]:
    """Returns the lines of a list, wrapped, but not between a number and its unit or interval."""
    held = [re.sub(r" (?=[%±])|(?<=±) ", "\N{NO-BREAK SPACE}", text) for text in texts]
    lines = [fill(f"- {text}", 120, subsequent_indent="  ", break_long_words=False) for text in held]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def replaced(page: str, name: str, text: str) -> str:
    """Replaces what is between the marks of a section. Raises ValueError if the page has none."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no section between {start.strip()} and {end}")
    return f"{before}{start}{text}\n{end}{after}"
