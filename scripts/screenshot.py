"""Photograph a page in headless Chromium: light, dark, and as narrow as a phone.

python scripts/screenshot.py firstcue-demo/report.html --out docs/images/report.png --height 1100
python scripts/screenshot.py firstcue-demo/report.html --out report.png --all       # report-light.png, -dark, -narrow
"""

import argparse
import shutil
import sys
from pathlib import Path

LOOKS = {"light": (1180, "light"), "dark": (1180, "dark"), "narrow": (390, "light")}


def photograph(page: Path, target: Path, look: str, height: int | None, scale: float, opened: bool) -> None:
    """One picture of `page`; the whole page unless a height is given."""
    from playwright.sync_api import sync_playwright

    width, scheme = LOOKS[look]
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        tab = browser.new_page(
            viewport={"width": width, "height": height or 900}, color_scheme=scheme, device_scale_factor=scale
        )
        tab.goto(page.resolve().as_uri())
        if opened:
            tab.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
        tab.screenshot(path=str(target), full_page=height is None)
        browser.close()


def main() -> int:
    """Parse, photograph, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    parser.add_argument("--look", choices=LOOKS, default="light")
    parser.add_argument("--all", action="store_true", help="every look, its name added to the file name")
    parser.add_argument("--height", type=int, help="pixels from the top; default the whole page")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels per pixel")
    parser.add_argument("--opened", action="store_true", help="unfold the evidence")
    given = parser.parse_args()
    if shutil.which("chromium") is None:
        print("needs Chromium: sudo apt-get install chromium", file=sys.stderr)
        return 4
    for look in LOOKS if given.all else [given.look]:
        target = given.out.with_stem(f"{given.out.stem}-{look}") if given.all else given.out
        photograph(given.page, target, look, given.height, given.scale, given.opened)
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
