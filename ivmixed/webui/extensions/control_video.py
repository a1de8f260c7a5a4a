"""What is said of a video for ControlNet's units, whoever's ControlNet it is."""
from __future__ import annotations

from typing import Any

from ...options import OptionError

NOBODY = "control_video: no unit of ControlNet takes it: enable one, and give it a model and no picture."
STOPPED = "ControlNet stopped while it prepared its units, and the clip would be without it: the log says why."


def script_of(p: Any, method: str) -> Any:
    """ControlNet's script of a request, one that has the ``method`` by which it gets a video. Raises OptionError."""
    for script in getattr(p.scripts, "alwayson_scripts", ()):
        if script.title().lower() == "controlnet" and hasattr(script, method):
            return script
    raise OptionError("control_video", "a video", "none", "has no use: this WebUI has no ControlNet that takes it")
