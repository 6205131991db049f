"""Runs lesson.ipynb in a fresh kernel and keeps what it shows: python notebooks/execute.py.

The file has nothing that changes from one execution to the next: no times, no ids and no state of widgets.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import output_from_msg
from PIL import Image

LESSON = Path(__file__).with_name("lesson.ipynb")
OUTPUTS = {"display_data", "error", "execute_result", "stream"}
PNG, WIDGET = "image/png", "application/vnd.jupyter.widget-view+json"


def execute(path: Path, env: Mapping[str, str] = os.environ) -> nbformat.NotebookNode:
    """Returns the notebook with new outputs. Its kernel starts in the notebook's folder.

    Raises RuntimeError, with the cell and the stack trace, if a cell fails, and TimeoutError if it takes ten minutes.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # A blocking client. The asynchronous one, which nbclient has, may overlook a reply until its time is out.
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(path.parent), env=dict(env))
    try:
        for number, cell in enumerate(cells, start=1):
            messages: list[dict[str, Any]] = []
            reply = client.execute_interactive(cell.source, timeout=600, allow_stdin=False, output_hook=messages.append)
            if reply["content"]["status"] != "ok":
                raise RuntimeError("\n".join([cell.source, *reply["content"]["traceback"]]))
            cell.execution_count = number
            cell.outputs = kept(output_from_msg(m) for m in messages if m["header"]["msg_type"] in OUTPUTS)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def kept(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Returns outputs with what is printed in one piece, small pictures, and no widgets: those need their kernel."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        if PNG in data:
            data[PNG] = compressed(data[PNG])
        if found and output.output_type == "stream" and output.name == found[-1].get("name"):
            found[-1].text += output.text
        elif WIDGET not in data:
            found.append(output)
    return found


def compressed(png: str) -> str:
    """Returns the same picture in a fifth of the bytes: vl-convert is quick instead. Both are base64."""
    small = BytesIO()
    Image.open(BytesIO(b64decode(png))).save(small, "PNG", optimize=True)
    return b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    nbformat.write(execute(LESSON), LESSON)
