"""The report of a sweep: tables, figures, and a page that says what they show."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from initlab.report import figures, findings, page, sentences, tables, theme
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
        lines += ["", fill(findings.lead(layout).replace(sentences.SPACE, " "), 120)]
    return "\n".join(lines) + "\n"


def summary(layout: Layout, seconds: Mapping[str, float | None]) -> tuple[str, str]:
    """Returns the result in a sentence or two, and the same table in Markdown. seconds: as in `terminal_table`."""
    cells = _rows(layout, seconds)
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells]
    return findings.lead(layout), "\n".join([head, "|---" * len(cells[0]) + "|", *rows]) + "\n"


def best_run(layout: Layout) -> str | None:
    """Returns the best run of a search; None for any other sweep, and if the best one is pooled from several seeds."""
    found = [] if layout.search is None else layout.pooled[str(layout.search.best["run"])]
    return found[0] if len(found) == 1 else None


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
            row["time"] = _time([seconds.get(run, nan) for run in layout.pooled[layout.run[row["variant"], setting]]])
            if layout.rates is not None and layout.at_own_rates:
                row["rate"] = sentences.rate(layout.rates, row["variant"], setting)
            row["variant"] = " ".join(filter(None, (row["variant"], setting)))
            rows.append(tuple(row[name] for name in columns))
        if len(shown) < len(ranked):
            rows.append((f"and {len(ranked) - len(shown)} more", *[""] * (len(columns) - 1)))
    return rows


def _time(seconds: Sequence[float | None]) -> str:
    """Formats how long runs took together. seconds: None if a run was reused, NaN if that is not known."""
    taken = [value for value in seconds if value is not None]
    return "reused" if not taken else "" if any(map(isnan, taken)) else f"{sum(taken):.0f} s"


def write(
    layout: Layout, folder: Path, lesson: pd.DataFrame | None = None, reproduction: pd.DataFrame | None = None
) -> list[str]:
    """Writes tables, figures/*.svg, overview.svg and index.html into `folder`. Returns their names there.

    The tables have all variants; the page and its figures have the best 30.  lesson: the table of `initlab lesson`.
    reproduction: the table of `initlab reproduce`.
    What can't be made is left out. The page and the log say so in a line each, and errors.txt has the stack traces.
    Raises OSError if a file can't be written.
    """
    failed: dict[str, str] = {}
    files: dict[str, str] = {}
    specifications: dict[str, dict[str, Any]] = {}
    shown = layout.best(LONG)
    with optional("the tables", failed):
        files |= tables.tables(layout.recorded.replicas)
    drawn = figures.figures(shown, lesson)
    for name, draw in drawn.items():
        with optional(f"the figure {name}", failed):
            specification = draw().to_dict()
            files[f"figures/{name}.svg"] = theme.svg(specification)
            specifications[name] = specification
    if "overview" in specifications:
        files["overview.svg"] = files.pop("figures/overview.svg")
    with optional("the page", failed):
        files["index.html"] = page.render(shown, specifications, lesson, failed, reproduction)
    if failed:
        files[ERRORS] = "\n".join(failed.values())
    for name in {ERRORS, "overview.svg", "index.html", *(f"figures/{name}.svg" for name in drawn)} - {*files}:
        (folder / name).unlink(missing_ok=True)  # of an earlier report
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return list(files)
