"""A small client of a running WebUI, for the live tests: standard library, Pillow for the frames."""
from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageSequence

NAME = "IV-mixed"


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


class WebUI:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def call(self, path, payload=None, timeout=1200):
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode()) from None

    def samplers(self):
        return [sampler["name"] for sampler in self.call("/sdapi/v1/samplers")]

    def motion_modules(self):
        """The motion modules that AnimateDiff offers, as the page lists them."""
        for component in self.call("/config")["components"]:
            if component["props"].get("elem_id") == "txt2img-ad-motion-module":
                return [choice[0] if isinstance(choice, list) else choice for choice in component["props"]["choices"]]
        return []

    def generate(self, kind="txt2img", *, clip=True, options=None, module=None, frames=4, context=None,
                 animatediff=None, left_out=(), **fields):
        """A still or a clip with AnimateDiff; ``options`` go to IV-mixed, ``fields`` to the host."""
        payload = {"prompt": "a photo of an astronaut", "negative_prompt": "blurry", "sampler_name": "Euler",
                   "steps": 3, "seed": 1, "cfg_scale": 7, "width": 64, "height": 64, "save_images": False, **fields}
        payload = {key: value for key, value in payload.items() if key not in left_out}
        scripts = payload.setdefault("alwayson_scripts", {})
        if clip:
            scripts["AnimateDiff"] = {"args": [{
                "model": module or self.motion_modules()[-1], "enable": True, "video_length": frames,
                "batch_size": context or frames, "format": ["GIF", "Frame"], "closed_loop": "N",
                **(animatediff or {})}]}
        if options is not None:
            scripts[NAME] = {"args": [options]}
        start = time.monotonic()
        answer = self.call(f"/sdapi/v1/{kind}", payload)
        seconds = time.monotonic() - start
        files = [base64.b64decode(image) for image in answer["images"]]
        stills = [file for file in files if file[:3] != b"GIF"]
        return Result([frame for file in stills for frame in pixels(file)], files,
                      json.loads(answer["info"])["infotexts"][0], seconds)

    def mixed(self, *args, **fields):
        return self.generate(*args, sampler_name=NAME, **fields)

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
        """Settings > Reload UI, as the button does it; returns when the server answers again."""
        config = self.call("/config")
        button = next(c["id"] for c in config["components"]
                      if c["props"].get("elem_id") == "settings_restart_gradio")
        index = next(i for i, d in enumerate(config["dependencies"]) if button in d["targets"]
                     or any(target[0] == button for target in d["targets"] if isinstance(target, list)))
        before = self.call("/app_id")
        self.call("/run/predict", {"fn_index": index, "data": [], "session_hash": "live"})
        for _ in range(240):
            time.sleep(0.5)
            try:
                if self.call("/app_id") != before:
                    return
            except (Refused, OSError):
                continue
        raise TimeoutError("the WebUI did not come back after Reload UI")
