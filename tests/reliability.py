"""python tests/reliability.py [--times N]: tries every fault, and writes the table of docs/reliability.md.

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
        marker = item.get_closest_marker("fault")
        if marker is not None and (report.when == "call" or report.outcome != "passed"):
            self.seen[marker.args][report.outcome] += 1
        return report

    def markdown(self, times: int) -> str:
        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "mlflow", "dvc"))
        machine = f"{platform.system()} with {psutil.cpu_count()} cores, Python {platform.python_version()}"
        lines = [
            f"Made by `python tests/reliability.py --times {times}` on {machine}, {packages}.",
            "",
            "| fault | tried | lost | what happens, and the way on |",
            "|---|---|---|---|",
        ]
        for (what, then), outcomes in self.seen.items():
            lost = f"**something, {outcomes['failed']} times**" if outcomes["failed"] else "nothing"
            tried = outcomes["passed"] + outcomes["failed"]
            lines.append(f"| {what} | {tried or 'not here'} | {lost if tried else ''} | {then} |")
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="tries of a fault at a random moment (default: 20)")
    times = parser.parse_args().times
    table = Table()
    code = pytest.main(["-m", "fault", "-n", "0", "--times", str(times)], plugins=[table])
    begin, end = "<!-- the table -->\n", "<!-- its end -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}{table.markdown(times)}\n{end}{rest.split(end)[1]}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
