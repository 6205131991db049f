"""What the report says of a comparison with a reference: the table that `initlab reproduce` writes."""

from pathlib import Path

import pandas as pd

LEVELS = {"data": "data", "step 0": "step 0", "early": "early losses", "final": "final values"}
COLUMNS = {"run", "level", "what", "result", "difference", "bound", "p"}


def read(path: Path) -> pd.DataFrame:
    """Reads the table. Raises ValueError if it is not one."""
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"difference": "", "bound": "", "p": ""})
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a comparison with a reference: {str(error).strip()}") from error
    if not set(table.columns) >= COLUMNS or not len(table) or table["level"][0] != "verdict":
        raise ValueError(f"{path} is not a comparison with a reference, as `initlab reproduce --output` writes it")
    return table


def verdict(table: pd.DataFrame) -> str:
    """Returns the verdict in one line."""
    return str(table["what"][0])


def summary(table: pd.DataFrame) -> list[list[str]]:
    """Returns the rows of a table: each run, and what was found on each level, from sharp to chance."""
    rows = []
    for run, found in table[1:].groupby("run", sort=False):
        rows.append([str(run), *(_cell(found[found["level"] == level]) for level in LEVELS)])
    return rows


def _cell(found: pd.DataFrame) -> str:
    """Says how near to its bound a run comes on one level, or how probable its least probable test is."""
    results = set(found["result"])
    if "differs" in results:
        return "differs"
    if not results or results == {"not compared"}:
        return "not compared"
    if results <= {"same bits", "not compared"}:
        return "same bits"
    if found["p"].notna().any():
        return f"p \u2265 {found['p'].min():.2g}" + ("; undecided" if "undecided" in results else "")
    return f"{(found['difference'].abs() / found['bound']).max():.1g} of the bound"
