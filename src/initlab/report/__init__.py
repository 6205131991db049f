"""The report of a sweep: tables, figures, and a page that tells what they show. `python -m initlab.report --help`."""

from pathlib import Path

import pandas as pd

from initlab.report import figures, look, page, tables
from initlab.report.view import View
from initlab.results import Results


def comparison(results: Results) -> str:
    """The final accuracies and losses of all runs, as a Markdown table."""
    return tables.tables(results.replicas)["comparison.md"]


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
