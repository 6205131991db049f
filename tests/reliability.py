"""python tests/reliability.py: tries every fault, and writes the table of docs/reliability.md.

A fault is a test marked so; those at random moments are tried N times, the slow ones among them less often.
"""

import argparse
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"


class Table:
    """What pytest saw of each fault: {(what, then): {outcome: number of tries}}."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        marker = item.get_closest_marker("faults")
        if marker is not None and (report.when == "call" or report.outcome != "passed"):
            self.seen[marker.args][report.outcome] += 1
        return report

    def rows(self) -> dict[str, str]:
        """{what: its row}."""
        found = {}
        for (what, then), outcomes in self.seen.items():
            lost = f"**something, {outcomes['failed']} times**" if outcomes["failed"] else "nothing"
            tried = outcomes["passed"] + outcomes["failed"]
            found[what] = f"| {what} | {tried or 'not here'} | {lost if tried else ''} | {then} |"
        return found


HEAD = ["| fault | tried | lost | what happens, and the way on |", "|---|---|---|---|"]


def head() -> list[str]:
    """What the table was made with, and its first two lines."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "mlflow", "dvc"))
    machine = f"{platform.system()} with {psutil.cpu_count()} cores, Python {platform.python_version()}"
    return [f"Made by `python tests/reliability.py` on {machine}, {packages}.", "", *HEAD]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="tries of a fault at a random moment (default: 20)")
    parser.add_argument("--only", default="", help="as pytest's -k; the rows of all others stay as they are")
    chosen = parser.parse_args()
    table = Table()
    words = ["-m", "faults", "-n", "0", "--times", str(chosen.times), "-k", chosen.only]
    code = pytest.main(words, plugins=[table])
    begin, end = "<!-- the table -->\n", "<!-- its end -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    old, after = rest.split(end)
    kept = {line.split(" | ")[0][2:]: line for line in old.splitlines() if line.startswith("| ") and line not in HEAD}
    rows = kept | table.rows() if chosen.only else table.rows()
    PAGE.write_text(before + begin + "\n".join([*head(), *rows.values()]) + "\n" + end + after, encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
