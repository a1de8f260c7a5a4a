import os
from contextlib import ExitStack

import pytest

from .webui import ANIMATEDIFF, BUILT_IN, Refused, WebUI


@pytest.fixture(scope="session")
def webui():
    """The running WebUI named by WEBUI_URL, with this extension in it.

    Its clips have AnimateDiff's motion where that extension is there and acts, or else, or with WEBUI_MOTION=built-in,
    the built-in one.
    """
    url = os.environ.get("WEBUI_URL")
    if not url:
        pytest.skip("no running WebUI given: make test-live WEBUI_URL=http://127.0.0.1:7860")
    with ExitStack() as stack:
        why = why_not_animatediff(WebUI(url), stack)
        webui = WebUI(url, BUILT_IN if why else ANIMATEDIFF)
        print(f"\nclips with {webui.motion}, module {webui.module}{f': {why}' if why else ''}")
        yield webui


def why_not_animatediff(webui, stack):
    """Why the clips are to have built-in motion; empty where AnimateDiff's is there and acts, within ``stack``."""
    if os.environ.get("WEBUI_MOTION") == "built-in":
        return "as WEBUI_MOTION says"
    if not webui.has(ANIMATEDIFF):
        return "no AnimateDiff in this WebUI"
    stack.enter_context(webui.without_controlnet())
    try:
        webui.mixed()
    except Refused as refused:
        if "never calls" not in refused.text:
            raise
        assert refused.status == 422
        return refused.text
    return ""


@pytest.fixture(scope="session")
def before(webui):
    """A clip and a still by Euler before IV-mixed ran: what every later one has to equal, to the bit.

    On a WebUI that has just started the clip is its first request, for which some load the checkpoint.
    """
    clip = webui.generate().frames
    return {"still": webui.generate(clip=False, steps=1).frames, "clip": clip}


@pytest.fixture(scope="session")
def mixed(webui, before):
    """A clip by IV-mixed."""
    return webui.mixed()
