"""The report of a sweep: tables, figures, and a page that says what they show."""

from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from textwrap import fill

import matplotlib
import pandas as pd

from initlab.report import figures, page, plotting, sentences, tables
from initlab.report.layout import Layout, lay_out
from initlab.report.optional import optional

COLUMNS = {"variant": "variant", "accuracy": "test accuracy", "val/loss": "val/loss", "time": "time"}
__all__ = ["best_run", "lay_out", "optional", "summary", "terminal_table", "write"]
ERRORS = "errors.txt"  # stack traces of what a report lacks
SHORT, LONG = 10, 30  # of more than 30 variants, a table shows the best 10 and the page the best 30


def terminal_table(layout: Layout, seconds: Mapping[str, float | None]) -> str:
    """Returns a table of the final accuracies and losses of all runs, best first.

    seconds: {run: how long it took, None if it was reused}.
    """
    rows = _rows(layout, seconds)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if layout.search is not None:
        rest = len(layout.search.runs) - len(layout.variants)
        lines += [f"and {rest} more, in report/comparison.md" for _ in range(rest > 0)]
    if layout.search is not None or layout.at_own_rates:
        lines += ["", fill(sentences.lead(layout).replace(sentences.SPACE, " "), 120)]
    return "\n".join(lines) + "\n"


def summary(layout: Layout, seconds: Mapping[str, float | None]) -> tuple[str, str]:
    """Returns the result in a sentence or two, and the same table in Markdown. seconds: as in `terminal_table`."""
    cells = _rows(layout, seconds)
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells]
    return sentences.lead(layout), "\n".join([head, "|---" * len(cells[0]) + "|", *rows]) + "\n"


def best_run(layout: Layout) -> str | None:
    """Returns the best run of a search; None for any other sweep."""
    return None if layout.search is None else str(layout.search.best["run"])


def _rows(layout: Layout, seconds: Mapping[str, float | None]) -> list[tuple[str, ...]]:
    columns = dict(COLUMNS)
    if layout.search is not None:
        columns = {"variant": "trial", "score": "validation accuracy", **dict(list(COLUMNS.items())[1:])}
    if layout.rates is not None and layout.at_own_rates:
        columns = {"variant": "variant", "rate": "learning rate", **dict(list(COLUMNS.items())[1:])}
    rows = [tuple(columns.values())]
    for setting in layout.settings:
        ranked = sentences.ranked(layout, setting)
        shown = ranked if len(ranked) <= LONG else ranked[:SHORT]
        for row in shown:
            run = layout.run[row["variant"], setting]
            taken = seconds.get(run, nan)
            row["time"] = "reused" if taken is None else "" if isnan(taken) else f"{taken:.0f} s"
            if layout.rates is not None and layout.at_own_rates:
                row["rate"] = sentences.rate(layout.rates, row["variant"], setting)
            row["variant"] = " ".join(filter(None, (row["variant"], setting)))
            rows.append(tuple(row[name] for name in columns))
        if len(shown) < len(ranked):
            rows.append((f"and {len(ranked) - len(shown)} more", *[""] * (len(columns) - 1)))
    return rows


def write(
    layout: Layout, folder: Path, lesson: pd.DataFrame | None = None, reproduction: pd.DataFrame | None = None
) -> list[str]:
    """Writes tables, figures/*.png, overview.svg and index.html into `folder`. Returns their names there.

    The tables have all variants; the page and its figures have the best 30.  lesson: the table of `initlab lesson`.
    reproduction: the table of `initlab reproduce`.
    What can't be made is left out. The page and the log say so in a line each, and errors.txt has the stack traces.
    Raises OSError if a file can't be written.
    """
    failed: dict[str, str] = {}
    files: dict[str, str | bytes] = {}
    vectors: dict[str, str] = {}
    shown = layout.best(LONG)
    with optional("the tables", failed):
        files |= tables.tables(layout.results.replicas)
    drawn = figures.figures(shown, lesson)
    for name, draw in drawn.items():
        with optional(f"the figure {name}", failed), matplotlib.rc_context(plotting.STYLE):
            figure = draw()
            vectors[name], files[f"figures/{name}.png"] = plotting.svg(figure), plotting.png(figure)
    if "overview" in vectors:
        files["overview.svg"] = vectors["overview"]
    with optional("the page", failed):
        files["index.html"] = page.render(shown, vectors, lesson, failed, reproduction)
    if failed:
        files[ERRORS] = "\n".join(failed.values())
    for name in {ERRORS, "overview.svg", "index.html", *(f"figures/{name}.png" for name in drawn)} - {*files}:
        (folder / name).unlink(missing_ok=True)  # of an earlier report
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(files)
