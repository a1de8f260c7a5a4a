"""Makes the README's pictures of the page: ``.venv/bin/python -m tests.browser.pictures``."""
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from .conftest import ROOT, find_browser, wait_for
from .test_panel import PREFIX, Tab
from .test_txt2vid import OWN, ClipTab

IMAGES = ROOT / "docs" / "images"
PORT = "7905"


def main() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.browser.page", "a1111", PORT]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        url = wait_for(server, f"http://127.0.0.1:{PORT}/")
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
            for theme in ("light", "dark"):
                picture(browser, url, theme, IMAGES / f"panel-{theme}.png")
            tab_picture(browser, url, IMAGES / "txt2vid.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def picture(browser, url: str, theme: str, path: Path) -> None:
    """Gamma falls, half of the steps run the video model alone, and the last fifth is plain."""
    with Tab(browser.new_page(), url, theme, 720) as tab:
        tab.choose("#txt2img_sampling", "IV-mixed")
        tab.open()
        for name, value in (("gamma_go", "7 to 2"), ("z_percent", 50), ("interval_end", 80)):
            tab.set(PREFIX + name, value)
        tab.recognises("custom")
        tab.says("price", "84 evaluations")
        tab.says("picture", "84 evaluations")
        tab.page.evaluate("document.activeElement.blur()")
        tab.find("open").screenshot(path=path)


def tab_picture(browser, url: str, path: Path) -> None:
    """A finished comparison; the double's clips are patterns."""
    with ClipTab(browser.new_page(), url, "light", 1200) as tab:
        tab.press("compare", clips=2)
        tab.page.evaluate("document.activeElement.blur()")
        bottom = tab.page.locator(f"{OWN}strip").first.bounding_box()
        height = round(bottom["y"] + bottom["height"]) + 30
        tab.page.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1200, "height": height})
    with Image.open(path) as shot:
        small = shot.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
