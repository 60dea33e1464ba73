"""Renew the pictures of the README from the built book: `make screenshots`."""

import shutil
import subprocess
import sys
from pathlib import Path

from book import opening_figure

ROOT = Path(__file__).resolve().parent.parent
PAGE = "notebooks/recursive_skip.html"


def main() -> int:
    folder = ROOT / "book/readme"
    folder.mkdir(exist_ok=True)
    print(f"opening_figure.svg: {opening_figure.draw(folder / 'opening_figure.svg')}")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("No chromium; on Debian: sudo apt install chromium", file=sys.stderr)
        return 1
    # The sandbox does not start as root, which is what containers run as; the page is our own.
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1360,900", "--virtual-time-budget=8000"]
    subprocess.run([browser, *options, f"--screenshot={folder / 'page.png'}", (ROOT / "_build/html" / PAGE).as_uri()], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
