"""Runs lesson.ipynb from a fresh kernel and keeps what it shows: python notebooks/execute.py.

The file has nothing that changes from one execution to the next: no times, no ids and no state of widgets.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

LESSON = Path(__file__).with_name("lesson.ipynb")
PNG, WIDGET = "image/png", "application/vnd.jupyter.widget-view+json"


def execute(path: Path, env: Mapping[str, str] = os.environ) -> nbformat.NotebookNode:
    """Returns the notebook with new outputs. Its kernel starts in the notebook's folder.

    Raises nbclient.exceptions.CellExecutionError if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, resources=folder, timeout=600, coalesce_streams=True, record_timing=False)
    client.execute(env=dict(env))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # A widget is of no use without the kernel that made it.
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                if PNG in output.get("data", {}):
                    output.data[PNG] = compressed(output.data[PNG])
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def compressed(png: str) -> str:
    """Returns the same picture in a fifth of the bytes: vl-convert is quick instead. Both are base64."""
    small = BytesIO()
    Image.open(BytesIO(b64decode(png))).save(small, "PNG", optimize=True)
    return b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    nbformat.write(execute(LESSON), LESSON)
