"""The report of a sweep: tables, figures, and a page that tells what they show. `python -m initlab.report --help`."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import pandas as pd

from initlab.report import figures, look, page, tables, words
from initlab.report.view import View
from initlab.results import Results

COLUMNS = {"variant": "variant", "accuracy": "test accuracy", "val/loss": "val/loss", "time": "time"}
SHORT, LONG = 10, 30  # of more variants than 30, a table shows the best 10, a page the best 30


def table(results: Results, seconds: Mapping[str, float]) -> str:
    """The final accuracies and losses of all runs, best first, for a terminal. seconds: {run: how long it took}."""
    view = View(results)
    rows = _rows(view, seconds)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if view.search is not None:
        rest = len(view.search.runs) - len(view.variants)
        lines += [f"and {rest} more, in report/comparison.md" for _ in range(rest > 0)]
        lines += ["", fill(words.lead(view).replace(words.SPACE, " "), 120)]
    return "\n".join(lines) + "\n"


def summary(results: Results, seconds: Mapping[str, float]) -> tuple[str, str]:
    """The result in a sentence or two, and the same table in Markdown."""
    view = View(results)
    cells = _rows(view, seconds)
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells]
    return words.lead(view), "\n".join([head, "|---" * len(cells[0]) + "|", *rows]) + "\n"


def best(results: Results) -> str | None:
    """The best run of a search."""
    search = View(results).search
    return None if search is None else str(search.best["run"])


def _rows(view: View, seconds: Mapping[str, float]) -> list[tuple[str, ...]]:
    columns = dict(COLUMNS)
    if view.search is not None:
        columns = {"variant": "trial", "score": "validation accuracy", **dict(list(COLUMNS.items())[1:])}
    rows = [tuple(columns.values())]
    for setting in view.settings:
        ranked = words.ranked(view, setting)
        shown = ranked if len(ranked) <= LONG else ranked[:SHORT]
        for row in shown:
            run = view.run[row["variant"], setting]
            row["time"] = f"{seconds[run]:.0f} s" if run in seconds else ""
            row["variant"] = " ".join(filter(None, (row["variant"], setting)))
            rows.append(tuple(row[name] for name in columns))
        if len(shown) < len(ranked):
            rows.append((f"and {len(ranked) - len(shown)} more", *[""] * (len(columns) - 1)))
    return rows


def write(results: Results, folder: Path, lesson: pd.DataFrame | None = None) -> list[str]:
    """Writes tables, figures/*.png, overview.svg and index.html into `folder`; returns their names there.

    The tables are of all variants, the page and its figures of the best 30.  lesson: the table that `initlab.lesson`
    makes.
    """
    view = View(results, LONG)
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
