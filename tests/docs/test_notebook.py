"""The lesson's notebook shows what a fresh kernel shows, and is in git without anything that changes by itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment, fresh_clone
from helpers.pages import NOTEBOOK, blocks

VARIES = "varies"  # tag of a cell that shows numbers of a training: other processors have other bits

MOVED = """
slider, *_ = signal.widget.children
assert "shift 0.50" in signal.widget.result.to_json()
slider.value = 1
assert "shift 1.00" in signal.widget.result.to_json()
"""


def said(cell: dict[str, Any]) -> list[str]:
    """What a cell prints or returns, as text. Pictures are not compared."""
    return ["".join(output.get("text") or output["data"]["text/plain"]) for output in cell["outputs"]]


def test_it_holds_its_outputs_and_nothing_that_changes_by_itself() -> None:
    """No error or warning, time, id, version or path of the machine on which it was executed."""
    text = (ROOT / NOTEBOOK).read_text(encoding="utf-8")
    assert len(text) < 400_000
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(set(cell["metadata"]) <= {"tags"} for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output.get("name", output["output_type"]) for output in outputs}
    assert kinds == {"display_data", "execute_result", "stdout"}  # no stderr, no error
    assert set().union(*(output.get("data", {}) for output in outputs)) == {"image/png", "text/html", "text/plain"}
    assert not re.search(r"[/\\]\w+[/\\]|\b0x", "".join(line for cell in cells for line in said(cell)))
    charts = [output for output in outputs if "".join(output.get("data", {}).get("text/plain", "")).startswith("alt.")]
    assert len(charts) >= 9
    assert all("image/png" in chart["data"] for chart in charts)


@pytest.mark.docs
def test_a_fresh_kernel_shows_the_same(tmp_path: Path) -> None:
    """In a fresh clone, which has no normalised data and no results. Then sliders move, and the solutions are run."""
    import nbformat  # of the extra `notebook`

    from notebooks.execute import execute

    path = fresh_clone(tmp_path) / NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    before = [(cell.source, said(cell)) for cell in notebook.cells if cell.cell_type == "code"]
    solutions = blocks(NOTEBOOK, "python")
    assert len(solutions) == 3
    notebook.cells += map(nbformat.v4.new_code_cell, [MOVED, *solutions])
    nbformat.write(notebook, path)
    shown = [cell for cell in execute(path, environment()).cells if cell.cell_type == "code"]
    for (source, then), cell in zip(before, shown, strict=False):
        if VARIES not in cell.metadata.get("tags", []):
            assert said(cell) == then, source
