"""The report of a sweep: tables, figures, and a page that tells what they show. `python -m initlab.report --help`."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from initlab.report import figures, look, page, tables, words
from initlab.report.view import View
from initlab.results import Results

COLUMNS = ("variant", "test accuracy", "val/loss", "time")


def table(results: Results, seconds: Mapping[str, float]) -> str:
    """The final accuracies and losses of all runs, best first, for a terminal. seconds: {run: how long it took}."""
    rows = _rows(View(results), seconds)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows) + "\n"


def summary(results: Results, seconds: Mapping[str, float]) -> tuple[str, str]:
    """The result in a sentence or two, and the same table in Markdown."""
    view = View(results)
    head, *rows = ["| " + " | ".join(row) + " |" for row in _rows(view, seconds)]
    return words.lead(view), "\n".join([head, "|---" * len(COLUMNS) + "|", *rows]) + "\n"


def _rows(view: View, seconds: Mapping[str, float]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [COLUMNS]
    for setting in view.settings:
        for row in words.ranked(view, setting):
            run = view.run[row["variant"], setting]
            took = f"{seconds[run]:.0f} s" if run in seconds else ""
            rows.append((" ".join(filter(None, (row["variant"], setting))), row["accuracy"], row["val/loss"], took))
    return rows


def write(results: Results, folder: Path, lesson: pd.DataFrame | None = None) -> list[str]:
    """Writes tables, figures/*.png, overview.svg and index.html into `folder`; returns their names there.

    lesson: the table that `initlab.lesson` makes.
    """
    view = View(results)
    drawn = dict(figures.draw(view, lesson))
    vectors = {name: look.svg(figure) for name, figure in drawn.items()}
    files: dict[str, str | bytes] = {**tables.tables(results.replicas)}
    files |= {f"figures/{name}.png": look.png(figure) for name, figure in drawn.items()}
    files |= {"overview.svg": vectors["overview"], "index.html": page.render(view, vectors, lesson)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(files)
