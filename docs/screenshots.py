"""Makes the README's pictures, docs/pictures/*.png, from the results of `dvc repro`: `python -m docs.screenshots`.

They show the findings and a figure of the report, and MLflow's view of the sweep's jobs side by side, in Chromium.
Needs the packages of the extra `dev`, and a browser.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from initlab.tracking import parent_run, results, ui

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
BROWSERS = "chromium", "chromium-browser", "google-chrome"
COLORS = 128  # of a picture: enough for text and lines, and a third of the bytes
STARTED = 60  # seconds that MLflow's server may take to answer


def main() -> None:
    page = ROOT / "report" / "index.html"
    if not page.exists():
        sys.exit("error: there is no report/index.html: run dvc repro first")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit(f"error: none of {', '.join(BROWSERS)} is installed")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        take_report(browser, page.as_uri())
        with mlflow_ui() as server:
            take_jobs(browser, server)
        browser.close()
    for picture in PICTURES.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(COLORS).save(picture, optimize=True)


def take_report(browser: Browser, address: str) -> None:
    """The findings, and one variant emphasised in the learning curves."""
    page = browser.new_page(viewport={"width": 1180, "height": 760})
    page.goto(address)
    page.wait_for_function("document.documentElement.dataset.drawn")
    page.screenshot(path=PICTURES / "findings.png")
    for variant in ("kaiming", "pytorch", "normal"):
        page.locator(f".legend button[data-variant={variant}]").click()
    page.locator("#loss_curves").scroll_into_view_if_needed()
    page.locator("#accuracy_curves").evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(500)  # milliseconds, for the figures to follow
    page.screenshot(path=PICTURES / "figures.png")
    page.close()


def take_jobs(browser: Browser, server: str) -> None:
    """MLflow's charts of the sweep's jobs side by side."""
    uri = f"sqlite:///{ROOT}/mlflow.db"
    parent = parent_run.find_parent(uri, results.digest(ROOT / "results"))
    if parent is None:
        sys.exit("error: mlflow.db has no sweep with these results: run dvc repro first")
    page = browser.new_page(viewport={"width": 1500, "height": 900})
    page.goto(f"{server}/{ui.address_of_jobs('1', parent)}")
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(timeout=60_000)
    page.get_by_role("button", name="Close", exact=True).first.click()  # the assistant's panel
    page.wait_for_timeout(2000)  # milliseconds, for the charts to take its place
    page.screenshot(path=PICTURES / "mlflow.png")
    page.close()


@contextmanager
def mlflow_ui() -> Iterator[str]:
    """`mlflow ui` in the project's root. Yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + STARTED
            while not _answers(address):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit("error: mlflow ui did not start")
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=2).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main()
