"""Takes the pictures of docs/report.md: `python docs/screenshots.py RUN FOLDER` (needs playwright and chromium)."""

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from jaxnas import report

PICTURES = {  # name: width, height, colour scheme, share of the epochs that the slider has passed
    "report-light.png": (1440, 900, "light", 0.25),
    "report-dark.png": (1440, 900, "dark", 1.0),
    "report-phone.png": (390, 844, "dark", 1.0),
}


def main(run: Path, folder: Path) -> None:
    """Writes each picture of a run's report, with all plots in sight drawn."""
    with tempfile.TemporaryDirectory() as there, sync_playwright() as playwright:
        page_file = report.write(run, Path(there) / "report.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, scheme, passed) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.locator("#panels .plot").first.scroll_into_view_if_needed()
            page.locator("#panels .main-svg").first.wait_for(state="attached")
            page.evaluate("scrollTo(0, 0)")
            slider = page.locator("#epoch")
            slider.fill(str(round(passed * int(slider.get_attribute("max")))))
            slider.blur()
            page.screenshot(path=folder / name)
            page.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    given = parser.parse_args()
    main(given.run, given.folder)
