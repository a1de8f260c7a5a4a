"""Every option, once, in a running WebUI: the clip is another one, and costs what the plan says."""
import base64
import io
import os
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivmixed.clips.media import write_clip
from ivmixed.motion.options import MOTION_OPTIONS
from ivmixed.presets import PRESETS
from ivmixed.webui.options import OPTIONS

from .test_running_webui import different, furthest
from .webui import BUILT_IN, NAME, Refused, png

pytestmark = pytest.mark.live

STEPS = 5
RAMP = {"gamma_go": [6, 2]}
CASES = {  # the option's value, and what else both clips have, with the option and without it
    "form": ("RR-IV", {}),
    "gamma_go": ([6, 2], {}),
    "gamma_back": ([[0, 2], [60, 6]], {}),
    "z_percent": (100, {}),
    "z_pattern": ("first", {"z_percent": 50}),
    "interval": ([0, 30], {}),
    "finish_percent": (50, {}),
    "image_prompt": ("an (oil painting:1.2) of a horse", {}),
    "image_negative_prompt": ("a photo", {}),
    "loop_order": ("noise-first", {}),
    "active_percent": (50, {}),
    "finish_by": ("steps", {"finish_percent": 20}),
    "reuse_percent": (50, {}),
    "reused": ("features", {"reuse_percent": 50}),
    "guidance_rescale": (0.7, {}),
    "rho": (1, RAMP),
    "finish_smoothing": (50, {"finish_percent": 50}),
    "image_attention": ("neighbours", {}),
    "schedule_match": ("timestep", {}),
    "above_sigma_max": ("skip", {}),
    "image_size": ("128x128", {}),
    "image_resize": ("nearest", {"image_size": "128x128"}),
    "gamma_image_go": ([6, 2], {}),
    "gamma_image_back": ("0=6 50=2 100=4", {}),
}
APART = {"image_checkpoint", "controlnet"}
"""Options that need more than the request: they have tests of their own."""


@pytest.fixture(scope="module")
def clips(webui, before):
    """Clips by what they are made with, each made once."""
    made = {}

    def clip(fields=None, **options):
        key = repr((sorted(options.items()), fields))
        if key not in made:
            made[key] = webui.mixed(steps=STEPS, options=options, **(fields or {}))
        return made[key]
    return clip


def planned(webui, **options):
    cost = webui.call("/ivmixed/v1/plan", {"steps": STEPS, "options": options})["cost"]
    return f"{cost['evaluations']} evaluations"


def test_none_is_left_out():
    assert CASES.keys() | APART == {option.name for option in OPTIONS}


@pytest.mark.parametrize("name", CASES)
def test_option(webui, clips, name):
    value, others = CASES[name]
    try:
        clip = clips(**others, **{name: value})
    except Refused as refused:
        assert refused.status == 422 and name in refused.text
        pytest.skip(f"refused here: {refused.text}")
    assert clip.field(NAME) == planned(webui, **others, **{name: value})
    label = next(option.label for option in OPTIONS if option.name == name)
    assert clip.field(label) is not None
    assert different(clip.frames, clips(**others).frames)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.loop])
def test_preset(webui, clips, name):
    options = next(preset["options"] for preset in webui.call("/ivmixed/v1/presets") if preset["name"] == name)
    clip = clips(**options)
    assert clip.field(NAME) == planned(webui, **options)
    assert clip.field("IV-mixed preset") == (None if name == "paper" else name)  # paper is the defaults


def test_the_image_model_may_take_every_step(webui, clips):
    """No video model is asked, and what is made are stills, which is said nowhere to be an error."""
    clip = clips(interval=[0, 0], finish_percent=100)
    assert clip.field(NAME) == planned(webui, interval=[0, 0], finish_percent=100) == f"{STEPS} evaluations"
    assert different(clip.frames, clips(interval=[0, 0]).frames)


def test_every_schedule(webui, before):
    try:
        schedules = webui.call("/sdapi/v1/schedulers")
    except Refused as refused:
        assert refused.status == 404
        pytest.skip("this WebUI has the automatic schedule alone")
    made = []
    for schedule in schedules:
        label = schedule["label"]
        try:
            clip = webui.mixed(steps=3, scheduler=label)
        except Refused as refused:  # some do not descend
            assert refused.status == 422 and "this schedule type does not suit it" in refused.text
            with pytest.raises(Refused, match="descend"):
                webui.call("/ivmixed/v1/plan", {"steps": 3, "scheduler": label})
            print(f"\n{label}: {refused.text}")
            continue
        made.append(label)
        try:
            cost = webui.call("/ivmixed/v1/plan", {"steps": 3, "scheduler": label})["cost"]
        except Refused as refused:  # some go by the picture's size
            assert refused.status == 422 and "before a model is asked" in refused.text
            continue
        print(f"\n{label}: {clip.field(NAME)}")
        assert clip.field(NAME) == f"{cost['evaluations']} evaluations", label
        assert clip.field("Schedule type") == label
        assert different(clip.frames, before["clip"])
    assert {"Automatic", "Karras", "Exponential"} <= set(made)


def test_image_checkpoint(webui, clips, before):
    chosen = webui.call("/sdapi/v1/options")["sd_model_checkpoint"]
    names = [model["title"].split(" [")[0] for model in webui.call("/sdapi/v1/sd-models")]
    loaded = next(name for name in names if Path(name).stem == clips().field("Model"))
    others, refusals = [], []
    for name in names:
        try:
            clip = clips(image_checkpoint=name)
        except Refused as refused:  # one for other networks, or not for this WebUI
            assert refused.status == 422 and "image_checkpoint" in refused.text
            refusals.append(refused.text)
            continue
        assert clip.field(NAME) == planned(webui)
        if name == loaded:  # its own file is the default, to the bit
            assert clip.frames == clips().frames
        else:
            assert different(clip.frames, clips().frames)
            others.append(name)
    assert webui.call("/sdapi/v1/options")["sd_model_checkpoint"] == chosen
    assert webui.generate().frames == before["clip"]
    if not others:
        pytest.skip(f"no other checkpoint that fits: {refusals}")
    # and so after an interrupt
    thread, box = webui.in_background(lambda: webui.mixed(steps=20, options={"image_checkpoint": others[0]}))
    while thread.is_alive():
        state = webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]
        if state["sampling_steps"] == 94 and state["sampling_step"]:  # not those of the clip before
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"it was over before it could be interrupted: {box}")
    webui.call("/sdapi/v1/interrupt", {})
    thread.join()
    assert len(box[0].frames) == 2
    assert webui.call("/sdapi/v1/options")["sd_model_checkpoint"] == chosen
    assert webui.generate().frames == before["clip"]


CONTROL = {"ControlNet": ("none", "control"), "IP-Adapter": (("ip-adapter_clip_sd15", "clip-vit-h (ipa"), "ip-adapter")}
"""How the names begin, in small letters, of the preprocessor and of the model that such a unit has."""


def unit_of(webui, kind):
    """A unit of ControlNet without a picture; skips where there is no such thing."""
    if not webui.has("ControlNet"):
        pytest.skip("no ControlNet in this WebUI")
    unit = {"enabled": True, "weight": 1.0}
    for field, begins in zip(("module", "model"), CONTROL[kind], strict=True):
        names = webui.call(f"/controlnet/{field}_list")[f"{field}_list"]
        unit[field] = next((name for name in names if name.lower().startswith(begins)), None)
        if unit[field] is None:
            pytest.skip(f"no {field} for {kind} in this WebUI")
    return unit


@pytest.mark.parametrize("kind", CONTROL)
def test_controlnet(webui, before, clips, kind):
    if webui.motion != BUILT_IN:
        pytest.skip("AnimateDiff stops at ControlNet's units in a request through the API")
    unit = {**unit_of(webui, kind), "image": png()}
    fields = {"alwayson_scripts": {"ControlNet": {"args": [unit]}}}
    if webui.generate(clip=False, steps=1, **fields).frames[:1] == before["still"]:
        pytest.skip("without effect on stills too: the WebUI cannot load it, see its log")
    made = [clips(fields, controlnet=model) for model in ("both", "video", "image")]
    assert all(clip.field(NAME) == planned(webui) for clip in made)
    neither = clips().frames
    frames = [clip.frames[:len(neither)] for clip in made]  # some WebUIs add the picture that controls
    assert all(different(a, b) for a, b in combinations([neither, *frames], 2))


OTHERS = {"freeu": [1.3, 1.4, 0.9, 0.2], "perturbedattentionguidance": [], "selfattentionguidance": [],
          "dynamicthresholding": [2.0]}
"""Scripts of the host that change the UNet or its guidance, by how their names begin; their first arguments."""


@pytest.mark.parametrize("name", OTHERS)
def test_it_composes_with_other_scripts(webui, before, clips, name):
    """On ordinary steps they do what they do to Euler's."""
    scripts = [script for script in webui.call("/sdapi/v1/script-info")
               if script["name"].startswith(name) and not script["is_img2img"]]
    if not scripts:
        pytest.skip("not in this WebUI")
    arguments = [True, *OTHERS[name]]
    arguments += [argument["value"] for argument in scripts[0]["args"][len(arguments):]]
    size = {"width": 128, "height": 128}  # else the middle of the UNet has one place, which attends to itself
    fields = {"alwayson_scripts": {scripts[0]["name"]: {"args": arguments}}, **size}
    plain = webui.generate(**fields)
    if not different(plain.frames, webui.generate(**size).frames):
        pytest.skip("without effect on this checkpoint")
    assert webui.mixed(options={"interval": [0, 0]}, **fields).frames == plain.frames
    clip = clips(fields)
    assert clip.field(NAME) == planned(webui)
    assert different(clip.frames, clips(size).frames)
    assert webui.generate().frames == before["clip"]


def test_it_composes_with_freeinit(webui, before, mixed):
    """AnimateDiff's: the whole sampling again, from noise that keeps the clip's layout."""
    if webui.motion == BUILT_IN or not webui.is_a1111:
        pytest.skip("of sd-webui-animatediff only")
    motion = {"freeinit_enable": True, "freeinit_iters": 2}
    plain = webui.generate(motion=motion)
    assert different(plain.frames, before["clip"])
    assert webui.mixed(options={"interval": [0, 0]}, motion=motion).frames == plain.frames
    clip = webui.mixed(motion=motion)
    assert clip.field(NAME) == mixed.field(NAME) and different(clip.frames, mixed.frames)
    assert webui.generate().frames == before["clip"]


def durations(file):
    image = Image.open(io.BytesIO(file))
    for k in range(image.n_frames):
        image.seek(k)
        yield image.info["duration"]


LONG = {"frames": 7, "context": 4, "steps": 1, "sampler_name": "Euler"}
SEEN = {"model", "frames", "context", "fps", "formats", "loras", "overlap", "stride", "closed_loop", "fuse",
        "motion_strength", "motion_strength_frames", "attention_scale", "noise", "free_init", "free_init_filter",
        "kind",  # needs a module whose file does not tell, see tests/test_webui_motion.py
        "init_video", "extend", "control_video"}


class TestBuiltInMotion:
    """Of 7 frames in windows of 4."""

    @pytest.fixture(autouse=True)
    def of_the_extension(self, webui):
        if webui.motion != BUILT_IN:
            pytest.skip("the motion is another extension's")

    def test_none_is_left_out(self):
        assert MOTION_OPTIONS.keys() == SEEN  # model: test_every_motion_module

    def test_frames_and_context(self, webui):
        clip = webui.generate(**LONG)
        assert len(clip.frames) == 7
        assert different(clip.frames, webui.generate(**{**LONG, "context": 7}).frames)

    @pytest.mark.parametrize("motion", [{"overlap": 2}, {"stride": 2}, {"closed_loop": "A"}, {"fuse": "mean"}], ids=str)
    def test_windows(self, webui, motion):
        plain, other = webui.generate(**LONG), webui.generate(**LONG, motion=motion)
        assert len(other.frames) == 7 and other.frames != plain.frames  # a frame may lie in the same windows
        assert other.field("IV-mixed motion " + next(iter(motion)).replace("_", " ")) is not None

    def test_a_clip_starts_from_another(self, webui):
        first = webui.generate(frames=4, motion={"formats": ["WebP", "PNG"]})
        video = base64.b64encode(first.files[0]).decode()
        common = {"kind": "img2img", "frames": 4, "init_images": []}
        weak, strong = (webui.generate(**common, denoising_strength=strength, motion={"init_video": video})
                        for strength in (0.1, 1.0))
        pictures = [base64.b64encode(file).decode() for file in first.files[1:]]
        same = webui.generate("img2img", frames=4, init_images=pictures, denoising_strength=0.1)
        assert weak.frames == same.frames and different(weak.frames, strong.frames)
        assert weak.field("IV-mixed motion start").strip('"').startswith("4 frames of init_video.webp")
        longer = webui.mixed(**common, denoising_strength=1.0, motion={"init_video": video, "extend": 2})
        assert longer.field("IV-mixed motion extend") == "2" and different(longer.frames, strong.frames)
        with pytest.raises(Refused, match="is not for txt2img"):
            webui.generate(frames=4, motion={"init_video": video})

    def test_a_video_is_the_hint_of_units_without_a_picture(self, webui, tmp_path):
        unit, plain = unit_of(webui, "ControlNet"), webui.generate(**LONG)
        pictures = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8)
        write_clip(tmp_path / "still.webp", pictures[:1].repeat(7, 0), 8, {})
        write_clip(tmp_path / "moving.webp", pictures, 8, {})
        Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
        still, moving, picture = (base64.b64encode((tmp_path / name).read_bytes()).decode()
                                  for name in ("still.webp", "moving.webp", "picture.png"))

        def clip(unit, **motion):
            return webui.generate(**LONG, alwayson_scripts={"ControlNet": {"args": [unit]}}, motion=motion)

        by_picture, by_still, by_moving = (clip({**unit, "image": picture, "save_detected_map": False}),
                                           clip(unit, control_video=still), clip(unit, control_video=moving))
        assert len(by_moving.frames) == 7
        assert furthest(by_still.frames, by_picture.frames) <= 1  # hints in a batch round otherwise than one alone
        assert different(by_still.frames[1:], by_moving.frames[1:])
        assert by_moving.field("IV-mixed motion control").strip('"').startswith("7 frames of control_video.webp")
        with pytest.raises(Refused, match="no unit of ControlNet takes it"):
            clip({**unit, "enabled": False}, control_video=moving)
        with pytest.raises(Refused, match="stopped while it prepared its units"):
            clip({**unit, "model": "none of these"}, control_video=moving)
        assert webui.generate(**LONG).frames == plain.frames

    @pytest.mark.parametrize("motion", [
        {"motion_strength": 0}, {"motion_strength": [2, 0]}, {"motion_strength_frames": "0=1 6=0"},
        {"attention_scale": 0.5}, {"fuse": "pyramid"}, {"fuse": "linear"}, {"noise": "freenoise"}, {"noise": "repeat"},
        {"free_init": 2}], ids=str)
    def test_strength_and_noise(self, webui, motion):
        plain, other = webui.generate(**LONG), webui.generate(**LONG, motion=motion)
        assert len(other.frames) == 7 and other.frames != plain.frames  # a frame of one window alone may be the same
        assert other.field(MOTION_OPTIONS[next(iter(motion))].label) is not None
        assert webui.generate(**LONG).frames == plain.frames

    def test_filters_of_free_init(self, webui):
        clips = [webui.generate(**LONG, motion={"free_init": 2, "free_init_filter": name}).frames
                 for name in ("butterworth", "gaussian", "ideal")]
        assert different(clips[0], clips[1]) and different(clips[1], clips[2])

    def test_frames_a_second(self, webui):
        assert set(durations(webui.generate(steps=1, motion={"fps": 5}).files[0])) == {200}

    @pytest.mark.parametrize("kind, magic", [("GIF", b"GIF8"), ("WebP", b"RIFF"), ("PNG", b"\x89PNG"),
                                             ("MP4", b"ftyp"), ("WebM", b"\x1aE\xdf\xa3")])
    def test_formats(self, webui, kind, magic):
        try:
            clip = webui.generate(steps=1, motion={"formats": [kind]})
        except Refused as refused:
            assert kind in ("MP4", "WebM") and refused.status == 422 and "av" in refused.text
            pytest.skip(f"this WebUI has no encoder: {refused.text}")
        assert any(magic in file[:12] for file in clip.files)

    def test_motion_loras(self, webui):
        lora = os.environ.get("WEBUI_MOTION_LORA")
        v2 = [name for name in webui.motion_modules() if "v2" in name]
        if not (lora and v2):
            pytest.skip("no motion LoRA named by WEBUI_MOTION_LORA, or no v2 module for it")
        plain, half, none = (webui.generate(module=v2[0], steps=1, motion=motion)
                             for motion in ({}, {"loras": f"{lora}:0.5"}, {"loras": f"{lora}:0"}))
        assert different(plain.frames, half.frames) and none.frames == plain.frames
