import os

import pytest

from .webui import WebUI


@pytest.fixture(scope="session")
def webui():
    """The running WebUI named by WEBUI_URL, with this extension and sd-webui-animatediff in it."""
    url = os.environ.get("WEBUI_URL")
    if not url:
        pytest.skip("no running WebUI given: make test-live WEBUI_URL=http://127.0.0.1:7860")
    return WebUI(url)


@pytest.fixture(scope="session")
def before(webui):
    """A still and a clip by Euler before IV-mixed ran: what every later one has to equal, to the bit."""
    return {"still": webui.generate(clip=False).frames, "clip": webui.generate().frames}
