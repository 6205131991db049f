"""The report of a sweep: tables, figures, and a page that says what they show."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import pandas as pd

from initlab.report import figures, page, plotting, sentences, tables
from initlab.report.layout import Layout, lay_out

COLUMNS = {"variant": "variant", "accuracy": "test accuracy", "val/loss": "val/loss", "time": "time"}
__all__ = ["best_run", "lay_out", "summary", "terminal_table", "write"]
SHORT, LONG = 10, 30  # of more than 30 variants, a table shows the best 10 and the page the best 30


def terminal_table(layout: Layout, seconds: Mapping[str, float]) -> str:
    """Returns a table of the final accuracies and losses of all runs, best first.

    seconds: {run: how long it took}.
    """
    rows = _rows(layout, seconds)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if layout.search is not None:
        rest = len(layout.search.runs) - len(layout.variants)
        lines += [f"and {rest} more, in report/comparison.md" for _ in range(rest > 0)]
        lines += ["", fill(sentences.lead(layout).replace(sentences.SPACE, " "), 120)]
    return "\n".join(lines) + "\n"


def summary(layout: Layout, seconds: Mapping[str, float]) -> tuple[str, str]:
    """Returns the result in a sentence or two, and the same table in Markdown. seconds: as in `terminal_table`."""
    cells = _rows(layout, seconds)
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells]
    return sentences.lead(layout), "\n".join([head, "|---" * len(cells[0]) + "|", *rows]) + "\n"


def best_run(layout: Layout) -> str | None:
    """Returns the best run of a search; None for any other sweep."""
    return None if layout.search is None else str(layout.search.best["run"])


def _rows(layout: Layout, seconds: Mapping[str, float]) -> list[tuple[str, ...]]:
    columns = dict(COLUMNS)
    if layout.search is not None:
        columns = {"variant": "trial", "score": "validation accuracy", **dict(list(COLUMNS.items())[1:])}
    rows = [tuple(columns.values())]
    for setting in layout.settings:
        ranked = sentences.ranked(layout, setting)
        shown = ranked if len(ranked) <= LONG else ranked[:SHORT]
        for row in shown:
            run = layout.run[row["variant"], setting]
            row["time"] = f"{seconds[run]:.0f} s" if run in seconds else ""
            row["variant"] = " ".join(filter(None, (row["variant"], setting)))
            rows.append(tuple(row[name] for name in columns))
        if len(shown) < len(ranked):
            rows.append((f"and {len(ranked) - len(shown)} more", *[""] * (len(columns) - 1)))
    return rows


def write(layout: Layout, folder: Path, lesson: pd.DataFrame | None = None) -> list[str]:
    """Writes tables, figures/*.png, overview.svg and index.html into `folder`. Returns their names there.

    The tables have all variants; the page and its figures have the best 30.  lesson: the table of `initlab lesson`.
    """
    shown = layout.best(LONG)
    drawn = dict(figures.draw(shown, lesson))
    vectors = {name: plotting.svg(figure) for name, figure in drawn.items()}
    files: dict[str, str | bytes] = {**tables.tables(layout.results.replicas)}
    files |= {f"figures/{name}.png": plotting.png(figure) for name, figure in drawn.items()}
    files |= {"overview.svg": vectors["overview"], "index.html": page.render(shown, vectors, lesson)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(files)
