"""A video as the hint of ControlNet's units beside built-in motion, on doubles of the hosts."""
import base64
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ivmixed.motion import MotionOptions

from .host import NAME, loaded
from .host.forge_host import HOSTS, loaded_forge
from .test_webui_motion import MOTION, with_modules
from .test_webui_start import colours, data


@pytest.fixture(params=HOSTS)
def host(request, tmp_path):
    with loaded_forge(request.param) as host:
        yield with_controlnet(with_modules(host, tmp_path))


@pytest.fixture
def forge(tmp_path):
    with loaded_forge("forge_main") as host:
        yield with_controlnet(with_modules(host, tmp_path))


def with_controlnet(host):
    """A host whose ControlNet has two units."""
    script = importlib.import_module("lib_controlnet.script").ControlNetForForgeOfficial()
    host.runner.create_script_ui(script)
    host.runner.alwayson_scripts.append(script)
    host.defaults += [None] * (len(host.runner.inputs) - len(host.defaults))
    return host


UNIT = {"model": "narrow"}


def video(tmp_path, count=12, fps=24, side=32):
    return base64.b64encode(data(tmp_path, colours(count, side), fps=fps)).decode()


def request(host, *units, sampler="Euler", options=None, fields=None, **motion):
    given = {MOTION: [{"model": "v3.safetensors", "frames": 4, **motion}]}
    if units:
        given["ControlNet"] = list(units)
    if options is not None:
        given[NAME] = [options]
    return host.processing.StableDiffusionProcessingTxt2Img(**{
        "sd_model": host.model, "is_api": True, "sampler_name": sampler, "scripts": host.runner, "steps": 4,
        "prompt": "a photo", "negative_prompt": "blurry", "script_args": host.arguments(given), **(fields or {})})


def hints(clip, weight=1.0):
    """What the double's ControlNet makes of frames of one colour."""
    values = torch.from_numpy(clip[:, 0, 0].astype(np.float32)) / 255
    return weight * torch.cat([values, values[:, :1]], 1)[:, :, None, None].expand(-1, -1, 4, 4)


def steered(host, hint, **more):
    """The clip with a hint for each frame, as the UNet is given it."""
    unet = host.model.forge_objects_after_applying_lora.unet
    unet.controlnet_linked_list = lambda rows: hint.repeat(rows // len(hint), 1, 1, 1)
    try:
        return host.run(request(host, **more))
    finally:
        unet.controlnet_linked_list = None


def assert_same(made, expected):
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-3)  # of a size of 60


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_each_frame_is_steered_by_its_own(host, tmp_path, sampler):
    p = request(host, UNIT, sampler=sampler, control_video=video(tmp_path))
    asked = p.script_args
    made = host.run(p)
    assert_same(made, steered(host, hints(colours(12)[::3]), sampler=sampler))
    assert (made - host.run(request(host, sampler=sampler))).abs().max() > 0.02
    assert p.extra_generation_params["IV-mixed motion control"] == (
        "4 frames of control_video.webp, 8 a second from its start")
    assert p.script_args == asked and not hasattr(p, "extra_result_images")
    assert "get_input_data" not in vars(host.script("ControlNet"))


def test_frames_keep_theirs_in_windows(forge, tmp_path):
    long = {"frames": 6, "context": 4}
    made = forge.run(request(forge, UNIT, control_video=video(tmp_path, 6, 8), **long))
    assert_same(made, steered(forge, hints(colours(6)), **long))


@pytest.mark.parametrize("acts_on", ["both", "video", "image"])
def test_the_sampler_says_which_model_it_acts_on(forge, tmp_path, acts_on):
    given = {"sampler": NAME, "options": {"controlnet": acts_on}}
    made = forge.run(request(forge, UNIT, control_video=video(tmp_path), **given))
    assert_same(made, steered(forge, hints(colours(12)[::3]), **given))


def test_the_unit_keeps_its_preprocessor_and_weight_and_how_it_resizes(forge, tmp_path):
    wide = np.concatenate([colours(4), np.zeros((4, 32, 32, 3), np.uint8)], 2)  # its middle is half of each
    file = base64.b64encode(data(tmp_path, wide)).decode()
    unit = {**UNIT, "module": "invert", "weight": 0.5, "resize_mode": "Just Resize"}
    made = forge.run(request(forge, unit, control_video=file))
    hint = hints(255 - colours(4), 0.5)
    hint[:, :, :, 2:] = 0.5
    torch.testing.assert_close(made, steered(forge, hint), rtol=1e-2, atol=1e-2)


def test_a_unit_with_a_picture_keeps_it(forge, tmp_path):
    own = {**UNIT, "image": colours(1)[0].tolist()}
    made = forge.run(request(forge, own, UNIT, control_video=video(tmp_path)))
    assert_same(made, steered(forge, hints(colours(12)[::3]) + hints(colours(1))))
    with pytest.raises(forge.sampler.RefusedError, match="no unit of ControlNet takes it"):
        forge.run(request(forge, own, control_video=video(tmp_path)))


@pytest.mark.parametrize("units, motion, message", [
    ((), {}, "no unit of ControlNet takes it"),
    (({**UNIT, "enabled": False},), {}, "no unit of ControlNet takes it"),
    (({},), {}, "ControlNet stopped while it prepared its units"),
    ((UNIT, {"module": "IP-Adapter"}), {}, r"unit 1 of ControlNet \(IP-Adapter\) looks at one picture"),
    ((UNIT,), {"control_video": "/etc/passwd"}, "control_video = '/etc/passwd' is no base64"),
    ((UNIT,), {"control_video": base64.b64encode(b"no clip").decode()}, "control_video is no clip"),
    ((UNIT,), {"control_video": base64.b64encode(b"GIF89a").decode()}, "cannot be read as a clip"),
    ((UNIT,), {"model": "gone"}, "model = 'gone' is not in the folders"),
])
def test_what_cannot_be_is_refused_before_the_first_evaluation(forge, tmp_path, units, motion, message):
    still = forge.run(request(forge))
    with pytest.raises(forge.sampler.RefusedError, match=message):
        forge.run(request(forge, *units, **{"control_video": video(tmp_path), **motion}))
    assert not forge.evaluations
    assert "get_input_data" not in vars(forge.script("ControlNet"))
    assert torch.equal(forge.run(request(forge)), still)


def test_without_controlnet_it_is_refused(tmp_path):
    with loaded_forge("forge_main") as host:
        p = request(with_modules(host, tmp_path), control_video=video(tmp_path))
        with pytest.raises(host.sampler.RefusedError, match="no ControlNet that takes it"):
            host.run(p)


def test_large_pictures_are_no_larger_than_the_clip_needs(forge, tmp_path, monkeypatch):
    seen = []
    module = importlib.import_module("lib_controlnet.script")
    fitted = module._fitted
    monkeypatch.setattr(module, "_fitted", lambda image, *more: (seen.append(image.shape), fitted(image, *more))[1])
    forge.run(request(forge, UNIT, control_video=video(tmp_path, 4, 8, 128)))
    assert seen == [(32, 32, 3)] * 4


def test_the_page_says_what_will_be_used(forge, tmp_path):
    data(tmp_path, colours(12), fps=24)
    preview = forge.motion_panel.preview_control
    shown = preview(SimpleNamespace(name=str(tmp_path / "start" / "in.webp")), 4, 8)
    assert "4 frames of control_video.webp, 8 a second from its start. The clip has 32x32 pixels." in shown
    assert preview(None, 4, 8) == ""
    (tmp_path / "other").write_bytes(b"no clip")
    assert "control_video is no clip" in preview(SimpleNamespace(name=str(tmp_path / "other")), 4, 8)


def test_a_file_is_never_written_out():
    option = MotionOptions.option("control_video")
    assert option.label == "" and MotionOptions(control_video=b"x").to_infotext() == {}


# --- AUTOMATIC1111

class Unit(SimpleNamespace):
    """A unit of sd-webui-controlnet, of pydantic."""

    def copy(self, update):
        return Unit(**{**vars(self), **update})


def test_on_automatic1111_units_read_the_frames_as_animatediffs_from_a_folder():
    """``get_control`` there lists the folder of a unit with ``animatediff_batch``, and leaves the hints in memory."""
    with loaded() as host:
        controlnet = host.module("extensions.controlnet")
        mine, theirs = Unit(enabled=True, image=None), {"enabled": True, "image": "base64"}
        off, remote = {"enabled": False}, {"enabled": True, "module": "canny"}
        script = SimpleNamespace(title=lambda: "ControlNet", args_from=1, args_to=5, latest_network=None)
        p = SimpleNamespace(scripts=SimpleNamespace(alwayson_scripts=[script]),
                            script_args=("before", mine, theirs, off, remote, "after"))
        with controlnet.fed(p, list(colours(3))) as check:
            before, own, kept, disabled, other, after = p.script_args
            assert (before, kept, disabled, after) == ("before", theirs, off, "after")
            assert other["module"] == "canny" and own.animatediff_batch and other["animatediff_batch"]
            assert own.batch_images == other["batch_images"] and not own.save_detected_map
            files = sorted(Path(own.batch_images).iterdir())
            assert all(np.array_equal(np.asarray(Image.open(file)), frame) for file, frame in zip(files, colours(3)))
            with pytest.raises(host.sampler.RefusedError, match="stopped while it prepared its units"):
                check()
            hint = host.controlnet.Hint(torch.zeros(6, 3, 8, 8), "memory")
            made = [host.controlnet.ControlParams("ControlNet", hint) for _ in range(3)]
            script.latest_network = SimpleNamespace(control_params=made)
            check()
            assert made[0].hint_cond.device == host.devices.get_device_for("controlnet")
        assert p.script_args[1] is mine and not files[0].exists()
        p.script_args = ("before", theirs, theirs, off, off, "after")
        with pytest.raises(host.sampler.RefusedError, match="no unit of ControlNet takes it"), \
                controlnet.fed(p, list(colours(3))):
            pass
