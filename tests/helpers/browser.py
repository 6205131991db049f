"""A browser that asks nobody but us for anything."""

import shutil
from collections.abc import Iterator

import pytest
from conftest import ROOT
from playwright.sync_api import Page, sync_playwright

BROWSERS = "chromium", "chromium-browser", "google-chrome"
# A browser that asks nobody but us for anything; as root it runs without its sandbox, or not at all.
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SHOTS = ROOT / "screenshots"


@pytest.fixture
def browser_page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty browser; what it shows at the end of the test is kept as a picture."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        page = browser.new_page(viewport={"width": 2400, "height": 1400})
        yield page
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name}.png")
        browser.close()
