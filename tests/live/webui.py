"""A small client of a running WebUI, for the live tests: standard library, Pillow for the frames."""
from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageSequence

NAME = "IV-mixed"
ANIMATEDIFF, BUILT_IN = "AnimateDiff", "IV-mixed motion"
"""The scripts that a clip's motion is of."""


class Refused(Exception):
    """An HTTP error of the server: ``status`` and the ``text`` of its answer."""

    def __init__(self, status, text):
        super().__init__(f"HTTP {status}: {text[:500]}")
        self.status, self.text = status, text


@dataclass
class Result:
    """What a generation gave: the frames' pixels, the clip's file, the infotext, the seconds it took."""

    frames: list[bytes]
    files: list[bytes]
    infotext: str
    seconds: float

    def field(self, key):
        """The infotext's value of ``key``, None where it has none."""
        found = re.search(rf'(?:^|, ){re.escape(key)}: ("[^"]*"|[^,]*)', self.infotext.split("\n")[-1])
        return found and found.group(1)


def pixels(data):
    """RGB bytes of every frame of a GIF or PNG."""
    return [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]


def png(size=64):
    """A picture as the API takes it."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class WebUI:
    def __init__(self, url, motion=ANIMATEDIFF):
        self.url, self.motion = url.rstrip("/"), motion

    def call(self, path, payload=None, timeout=1200):
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode()) from None

    def component(self, elem_id):
        """What the page says of one of its components; None where it has none of the name."""
        components = (component["props"] for component in self.call("/config")["components"])
        return next((props for props in components if props.get("elem_id") == elem_id), None)

    @contextmanager
    def without_controlnet(self):
        """The host within the block with no ControlNet units.

        sd-forge-animatediff stops at them when it is called through the API, whether they are used or not:
        ``get_controlnet_units`` in its ``animatediff_utils.py``.
        """
        name = "control_net_unit_count"
        units = self.component(f"setting_{name}")
        if not units or units["value"] == 0:
            yield
            return
        try:
            self.call("/sdapi/v1/options", {name: 0})
            self.reload_page()
            yield
        finally:
            self.call("/sdapi/v1/options", {name: units["value"]})
            self.reload_page()

    def has(self, script):
        return script.lower() in self.call("/sdapi/v1/scripts")["txt2img"]

    def fields(self):
        """The names of what a request can have."""
        return self.call("/openapi.json")["components"]["schemas"]["StableDiffusionProcessingTxt2Img"]["properties"]

    def has_setting(self, name):
        return name in self.call("/sdapi/v1/options")

    @cached_property
    def is_a1111(self):
        """No Forge: these have extensions built in that call themselves integrated."""
        return not any("integrated" in script for script in self.call("/sdapi/v1/scripts")["txt2img"])

    def samplers(self):
        return [sampler["name"] for sampler in self.call("/sdapi/v1/samplers")]

    def motion_modules(self):
        """The files that the page lists as motion modules."""
        model = {ANIMATEDIFF: "txt2img-ad-motion-module", BUILT_IN: "script_txt2img_ivmixed_motion_model"}
        choices = (self.component(model[self.motion]) or {"choices": []})["choices"]
        return [choice[0] if isinstance(choice, list) else choice for choice in choices]

    @cached_property
    def module(self):
        """The motion module of the clips, where a test asks for no other."""
        return next(name for name in self.motion_modules() if "v3" in name or name == self.motion_modules()[-1])

    def motion_arguments(self, **clip):
        """What the script that gives the motion is told."""
        clip = {"model": self.module, "frames": 2, "context": 2, "closed_loop": "N", **clip}
        if self.motion == BUILT_IN:
            return {"formats": ["GIF", "PNG"], **clip}
        return {"enable": True, "model": clip["model"], "video_length": clip["frames"], "batch_size": clip["context"],
                "closed_loop": clip["closed_loop"], "format": ["GIF", "Frame"],
                **{name: value for name, value in clip.items() if name.startswith("freeinit")}}

    def generate(self, kind="txt2img", *, clip=True, options=None, module=None, frames=2, context=None,
                 closed_loop="N", motion=None, left_out=(), **fields):
        """A still or a clip; ``options`` go to IV-mixed, ``motion`` to the script that gives it, ``fields`` to the
        host."""
        payload = {"prompt": "a photo of an astronaut", "negative_prompt": "blurry", "sampler_name": "Euler",
                   "steps": 2, "seed": 1, "cfg_scale": 7, "width": 64, "height": 64, "save_images": False, **fields}
        payload = {key: value for key, value in payload.items() if key not in left_out}
        scripts = payload["alwayson_scripts"] = dict(payload.get("alwayson_scripts", {}))
        if clip:
            scripts[self.motion] = {"args": [self.motion_arguments(**{
                "model": module or self.module, "frames": frames, "context": context or frames,
                "closed_loop": closed_loop, **(motion or {})})]}
        if options is not None:
            scripts[NAME] = {"args": [options]}
        start = time.monotonic()
        answer = self.call(f"/sdapi/v1/{kind}", payload)
        seconds = time.monotonic() - start
        files = [base64.b64decode(image) for image in answer["images"]]
        stills = [file for file in files if not re.match(rb"GIF|....ftyp|\x1aE\xdf\xa3", file, re.DOTALL)]  # MP4, WebM
        return Result([frame for file in stills for frame in pixels(file)], files,
                      json.loads(answer["info"])["infotexts"][0], seconds)

    def mixed(self, *args, **fields):
        return self.generate(*args, **{"sampler_name": NAME, **fields})

    @contextmanager
    def settings(self, **values):
        """The host's settings within the block; ``override_settings`` would leave behind what config.json lacks."""
        before = self.call("/sdapi/v1/options")
        self.call("/sdapi/v1/options", values)
        try:
            yield
        finally:
            self.call("/sdapi/v1/options", {name: before[name] for name in values})

    def in_background(self, function):
        """Runs ``function`` beside the test: (thread, list that gets its result or exception)."""
        box = []

        def work():
            try:
                box.append(function())
            except Exception as error:
                box.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread, box

    def reload_page(self):
        """Settings > Reload UI, as the button does it; returns when the server has its API again."""
        config = self.call("/config")
        button = next(c["id"] for c in config["components"]
                      if c["props"].get("elem_id") == "settings_restart_gradio")
        index = next(i for i, d in enumerate(config["dependencies"]) if button in d["targets"]
                     or any(target[0] == button for target in d["targets"] if isinstance(target, list)))
        self.call("/run/predict", {"fn_index": index, "data": [], "session_hash": "live"})
        # asked anything between its start and that of its API, the host cannot add the API any more
        for serves in (False, True):
            self._wait(lambda serves=serves: self._serves() == serves)
        time.sleep(20)
        self._wait(lambda: self.samplers())
        time.sleep(2)  # it takes requests a moment before it is complete

    def _serves(self):
        address = urllib.parse.urlsplit(self.url)
        try:
            with socket.create_connection((address.hostname, address.port or 80), timeout=1):
                return True
        except OSError:
            return False

    @staticmethod
    def _wait(until):
        for _ in range(1200):
            try:
                if until():
                    return
            except (Refused, OSError):
                pass
            time.sleep(0.1)
        raise TimeoutError("the WebUI did not come back after Reload UI")
