"""Measures how fast initlab is on this machine, beside what one would use instead, and what trackers take.

Writes benchmarks/results/NAME.csv, and the tables and figures of docs/performance.md (half an hour) and, if they are
named, of docs/clusters.md and docs/scale.md (an hour). Leave the machine alone meanwhile; the peers need the packages
of the extra `bench`, the others those of `dev`.
"""

import argparse
import platform
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
import torch

from benchmarks import (
    browser,
    growth,
    launchers,
    parts,
    scaling,
    side_by_side,
    startup,
    step,
    sweeps,
    tracker,
    whole_sweep,
)
from benchmarks.figure import draw, draw_rates
from papers.pages import replaced

TABLES: dict[str, Callable[[int], pd.DataFrame]] = {
    "side_by_side": side_by_side.table,
    "step": step.table,
    "parts": parts.table,
    "scaling": scaling.table,
    "startup": startup.table,
    "whole_sweep": lambda rounds: whole_sweep.table(),
    "launchers": launchers.table,
    "sweeps": sweeps.table,
    "tracker": tracker.table,
    "growth": growth.table,
    "browser": browser.table,
}
ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
PAGES = {
    "launchers": ROOT / "docs" / "clusters.md",
    "sweeps": ROOT / "docs" / "clusters.md",
    **dict.fromkeys(("tracker", "growth", "browser"), ROOT / "docs" / "scale.md"),
}
FORMATS = {
    "s an epoch": "{:.3f}",
    "lowest": "{:.3f}",
    "highest": "{:.3f}",
    "s a replica": "{:.4f}",
    "images/s x replicas": "{:,.0f}",
    "of the GEMM peak": "{:.0%}",
    "times ours, 8 replicas": "{:.1f}",
    "times the bare loop": "{:.2f}",
    "accuracy": "{:.3f}",
    "memory, MB": "{:,.0f}",
    "peak, GFLOP/s": "{:.0f}",
    "s": "{:.2f}",
    "times basic": "{:.2f}",
    "s to start": "{:.1f}",
    "s a job": "{:.2f}",
    "a write, ms, 1": "{:,.1f}",
    "a write, ms, 16": "{:,.1f}",
    "server's CPU, ms each": "{:.2f}",
    "failed": "{:.0f}",
    **dict.fromkeys(("1", "2", "4", "8", "16"), "{:,.1f}"),
    **dict.fromkeys(("100", "1,000", "5,000"), "{:.2f}"),
}


def main() -> None:
    """Runs the benchmarks that are named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"some of {', '.join(TABLES)}; all, if none")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken (default: 5)")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.tables if name not in TABLES]
    if unknown or chosen.rounds < 1:
        parser.error(f"{', '.join(unknown) or chosen.rounds}; expected tables among {', '.join(TABLES)}, rounds >= 1")
    RESULTS.mkdir(exist_ok=True)
    for name in chosen.tables or [name for name in TABLES if name not in PAGES]:
        table = TABLES[name](chosen.rounds)
        table.to_csv(RESULTS / f"{name}.csv", index=False, lineterminator="\n")
        text = f"{machine()}\n\n{markdown(table)}"
        print(text)
        page = PAGES.get(name, PAGE)
        page.write_text(replaced(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    if (RESULTS / "side_by_side.csv").exists():
        draw(pd.read_csv(RESULTS / "side_by_side.csv"), PAGE.parent / "performance.svg")
    if (RESULTS / "tracker.csv").exists():
        draw_rates(pd.read_csv(RESULTS / "tracker.csv"), PAGE.parent / "scale.svg")


def machine() -> str:
    """Returns one line that describes the machine and the packages."""
    names = ("torch", "pytorch-lightning", "mlflow", "scikit-learn", "jax", "numpy")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    processor = model[1] if model else platform.processor()
    cores = f"{psutil.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{processor}, {cores}; {platform.system()}, Python {platform.python_version()}, {packages}."


def markdown(table: pd.DataFrame) -> str:
    """Returns the table in Markdown, with a readable number of digits."""
    shown = table.copy()
    for name in table.columns.intersection(list(FORMATS)):
        shown[name] = ["" if pd.isna(value) else FORMATS[name].format(value) for value in table[name]]
    lines = [table.columns, ["---"] * len(table.columns), *shown.astype(str).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
