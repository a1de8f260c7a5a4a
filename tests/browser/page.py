"""Serves the page of a host's double: ``python -m tests.browser.page HOST PORT``. The gradio is the interpreter's own.

Into the page go what the hosts' scripts give (tests/host/page) and the extension's own javascript/ and style.css, as
the hosts put them there.
"""
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response

from ..host import loaded
from ..host.forge_host import loaded_forge
from ..test_webui_motion import KINDS, small_module
from ..test_webui_txt2vid import prepared

ROOT = Path(__file__).parents[2]


def head() -> str:
    scripts = [ROOT / "tests/host/page/host.js", *sorted((ROOT / "javascript").glob("*.js"))]
    styles = [ROOT / "tests/host/page/host.css", ROOT / "style.css"]
    return "".join([*(f"<style>{style.read_text()}</style>" for style in styles),
                    *(f"<script>{script.read_text()}</script>" for script in scripts)])


def served(host) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def with_scripts(request: Request, call_next):
        answer = await call_next(request)
        if request.url.path != "/":
            return answer
        text = b"".join([part async for part in answer.body_iterator]).decode()
        headers = {key: value for key, value in answer.headers.items() if key != "content-length"}
        return Response(text.replace("<head>", "<head>" + head(), 1), answer.status_code, headers)

    host.progress.setup_progress_api(app)
    host.script_callbacks.app_started_callback(host.page, app)
    return gr.mount_gradio_app(app, host.page, "/")


def main(name: str, port: str) -> None:
    with (loaded() if name == "a1111" else loaded_forge(name)) as host, TemporaryDirectory() as folder:
        prepared(host, Path(folder))
        host.modules = {module: small_module(module, positions=16) for module in KINDS}  # as the page's default
        uvicorn.run(served(host), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
