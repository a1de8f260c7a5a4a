"""The page in a real browser: skipped where there is none, unless IVMIXED_BROWSER=required."""
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("IVMIXED_BROWSER") == "required"
GRADIO4 = Path(os.environ.get("GRADIO4", Path(sys.prefix, "gradio4")))
"""The folder into which gradio 4 was installed beside the environment's gradio 3, see the Makefile."""
HOSTS = {"gradio3": "a1111", "gradio4": "forge_main"}
START = 300
"""Seconds that a page may take to be served: on a busy machine importing gradio alone takes a minute."""


def missing(what):
    (pytest.fail if REQUIRED else pytest.skip)(f"{what} is missing: the page is not tried in a browser")


def find_browser():
    """The machine's Chromium or Chrome; None: playwright's own, where it has one."""
    names = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser():
    playwright = import_module("playwright.sync_api") if REQUIRED else pytest.importorskip("playwright.sync_api")
    found = find_browser()
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).exists():
            missing("a browser (Chromium or Chrome)")
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page(browser):
    """One for all tests, each of which loads it anew: what the browser fetched and compiled for one serves the next.
    Fonts and scripts of other servers are no part of it: they are behind a proxy that is not there."""
    with browser.new_context(proxy={"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"}) as context:
        yield context.new_page()


@pytest.fixture(scope="session", params=HOSTS)
def url(request, page):
    """Where the page of a host's double is served, with its gradio."""
    if find_spec("gradio") is None:
        missing("gradio 3")
    if request.param == "gradio4" and not (GRADIO4 / "gradio").is_dir():
        missing(f"gradio 4 in {GRADIO4}")
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = [str(GRADIO4)] * (request.param == "gradio4") + [str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.browser.page", HOSTS[request.param], str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield wait_for(server, f"http://127.0.0.1:{port}/")
    finally:
        page.goto("about:blank")  # what is open holds the server
        server.terminate()
        server.wait(30)


def wait_for(server, url):
    until = time.monotonic() + START
    while time.monotonic() < until:
        if server.poll() is not None:
            pytest.fail(f"the server ended with status {server.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"nothing is served at {url} after {START} s")
