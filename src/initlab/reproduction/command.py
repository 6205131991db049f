"""The command `initlab reproduce`: makes a reference, or compares results with it and writes the verdict down."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from initlab import atomic_files
from initlab.reproduction import reference
from initlab.reproduction.verdict import DIFFERS, LEVELS, NOT_COMPARED, Row, compare, sentence
from initlab.tracking import results


def reproduce(folder: Path, reference_folder: Path, output: Path | None) -> bool | None:
    """Compares results with a reference, and prints the verdict.

    output: CSV file for the comparison; FILE.json beside it gets the numbers of runs, for `dvc metrics`.
    Returns whether the results are reproduced; None if that can't be told.
    Raises OSError or ValueError if the results can't be read.
    """
    found = results.load(folder)
    try:
        rows = compare(reference.read(reference_folder), reference.numbers(found))
    except reference.UnreadableReferenceError as error:
        rows, said = [], f"{NOT_COMPARED}: {error}"
    else:
        said = sentence(rows)
    if output is not None:
        write(rows, said, output)
    print(said)
    return {"reproduced": True, "NOT reproduced": False}.get(said.partition(":")[0])


def make_reference(folder: Path, reference_folder: Path) -> None:
    """Makes a reference of results. Raises OSError or ValueError for results that can't be used."""
    from initlab.reproduction import make  # imports Lightning

    make.make_reference(results.load(folder), reference_folder)
    print(f"reference: {reference_folder}")


def write(rows: Sequence[Row], said: str, path: Path) -> None:
    """Writes the verdict, and the rows, to a CSV file, and the numbers of runs by result to a JSON file beside it."""
    table = pd.DataFrame([Row("", "verdict", said, said.partition(":")[0]), *rows])
    table["step"], table["replica"] = table["step"].astype("Int64"), table["replica"].astype("Int64")
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.7g")
    atomic_files.write(path, text.encode())
    atomic_files.write(path.with_suffix(".json"), (json.dumps(counts(rows), indent=2) + "\n").encode())


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Returns the number of runs, of those that differ, and of those that differ on each level."""
    wrong = [row for row in rows if row.result == DIFFERS]
    found = {"runs": len({row.run for row in rows}), "differ": len({row.run for row in wrong})}
    return found | {
        f"differ.{level.replace(' ', '')}": len({r.run for r in wrong if r.level == level}) for level in LEVELS
    }
