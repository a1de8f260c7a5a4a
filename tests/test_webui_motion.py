"""Built-in motion in AUTOMATIC1111, against a double of the host (tests/host)."""
import base64
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

from ivmixed import OPTIONS, OptionError, Options, Schedule, make_plan
from ivmixed.motion import Layout, MotionError, MotionModule, MotionOptions, attach, uniform_windows
from ivmixed.motion.module import LIGHTNING, SDXL, V1, V2, V3
from ivmixed.motion.noise import mixed, order
from ivmixed.motion.options import MOTION_OPTIONS

from .device import Reads
from .host import NAME, loaded
from .hostile import assert_in_words

MOTION = "IV-mixed motion"
KINDS = {"v1.safetensors": V1, "v2.safetensors": V2, "v3.safetensors": V3, "xl.safetensors": SDXL}
LONG = {"frames": 6, "context": 4}
"""A clip with several context windows."""


def small_module(name, positions=8):
    """A motion module of the double's measures, with random weights."""
    kind = KINDS[name]
    torch.manual_seed(len(kind.name))
    layout = Layout(
        widths=(8,) if kind is SDXL else (4,), middle=kind is V2, positions=positions, heads=2, groups=2)
    module = MotionModule(kind, layout, name)
    for part in module.up_blocks:  # the double's UNet has as many blocks up as down
        part["motion_modules"] = nn.ModuleList(list(part["motion_modules"])[:2])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.requires_grad_(False)


class SmallModules(dict):
    """By name, each made when it is first asked for."""

    def __missing__(self, name):
        with torch.random.fork_rng(devices=[]):
            self[name] = small_module(name)
        return self[name]


def with_modules(host, folder):
    """A host that finds small motion modules in a folder."""
    (folder / "AnimateDiff").mkdir()
    for name in KINDS:
        (folder / "AnimateDiff" / name).touch()
    host.built_in.paths.models_path = str(folder)
    host.modules = SmallModules()
    host.built_in._load = lambda path, *_: host.modules[path.name]
    return host


@pytest.fixture
def host(tmp_path):
    with loaded() as host:
        yield with_modules(host, tmp_path)


def request(host, sampler="Euler", prompt="a photo", options=None, **motion):
    given = {MOTION: [{"model": "v3.safetensors", "frames": 4, **motion}]}
    if options is not None:
        given[NAME] = [options]
    return host.processing.StableDiffusionProcessing(
        sd_model=host.model, is_api=True, sampler_name=sampler, scripts=host.runner, steps=3, prompt=prompt,
        negative_prompt="blurry", script_args=host.arguments(given))


def test_all_by_the_image_model_are_stills_and_taken(host):
    """No evaluation of the video model: that motion is never called is as it should be."""
    options = {"interval": [0, 0], "finish_percent": 100}
    stills = host.run(request(host, NAME, options=options))
    assert len(host.evaluations) == 3
    clip = host.run(request(host, NAME, options={"interval": [0, 0]}))
    assert (clip - stills).abs().max() > 1e-3
    assert torch.equal(host.run(request(host)), clip)  # plain, and with motion again


def moved(host, call, module, frames):
    """What the UNet gives with the module in it for what a call was asked."""
    with torch.no_grad(), attach(host.model.model.diffusion_model, module) as motion:
        motion.frames = frames
        return host.model.model.diffusion_model(call.x, timesteps=call.t, context=call.context)


# --- plain samplers

@pytest.mark.parametrize("name", ["v1.safetensors", "v2.safetensors", "v3.safetensors"])
@pytest.mark.parametrize("together", [True, False])
def test_a_plain_sampler_has_motion_in_all_evaluations(host, name, together):
    host.shared.opts.batch_cond_uncond = together
    p = request(host, model=name)
    host.run(p)
    assert len(p.latents) == 4 and p.batch_size == 1
    levels = [evaluation.sigma[0].item() for evaluation in host.evaluations]
    assert levels == pytest.approx(
        [Schedule.linear().timestep_to_sigma(t) for t in (999, 499.5, 0)], rel=1e-4)
    for evaluation in host.evaluations:
        assert [len(call.x) for call in evaluation.calls] == ([8] if together else [4, 4])
        for call in evaluation.calls:
            assert torch.equal(call.out, moved(host, call, host.modules[name], 4))
            assert not torch.allclose(call.out, host.unet(call.x, timesteps=call.t, context=call.context))


@pytest.mark.parametrize("fuse", ["last", "mean"])
def test_a_long_clip_is_evaluated_in_windows(host, fuse):
    host.run(request(host, **LONG, fuse=fuse))
    for evaluation in host.evaluations:
        windows = uniform_windows(evaluation.step, 6, 4)
        total, times = torch.zeros(12, 4, 4, 4), torch.zeros(12, 1, 1, 1)
        assert len(evaluation.calls) == len(windows) > 1
        for call, window in zip(evaluation.calls, windows):
            rows = window + [frame + 6 for frame in window]
            assert torch.equal(call.x, host.scaled(evaluation.x, evaluation.sigma)[rows])
            assert torch.equal(call.out, moved(host, call, host.modules["v3.safetensors"], 4))
            total[rows] = call.out if fuse == "last" else total[rows] + call.out
            times[rows] += 1
        eps = total if fuse == "last" else total / times
        torch.testing.assert_close(evaluation.out, evaluation.x - evaluation.sigma[:, None, None, None] * eps)


def test_prompts_travel(host):
    host.run(request(host, prompt="head\n0: one\n3: two\ntail"))
    context = host.evaluations[0].calls[0].context[:4]
    assert torch.equal(context[0], host.encode("head, one, tail"))
    assert torch.equal(context[3], host.encode("head, two, tail"))
    between = [(frame - context[0]).norm() for frame in context]
    assert between == sorted(between)
    assert len({round(float(b), 4) for b in between}) == 4


@pytest.mark.parametrize("options", [{}, {"reuse_percent": 50}, {"reused": "features", "reuse_percent": 50}])
def test_no_move_reads_a_tensor(host, options):
    """On a GPU that would make the host wait: what is read is read before the first move or after the last."""
    reads = {}
    for steps in (3, 5):
        p = request(host, NAME, "0: one\n3: two", options=options, **LONG)
        p.steps = steps
        with Reads() as seen:
            host.run(p)
        reads[steps] = seen.seen
    assert reads[3] == reads[5] != []


# --- what kind a module is

def test_a_kind_that_was_taken_for_want_of_signs_is_said_and_pasted_back(host):
    module = host.modules["v3.safetensors"]
    host.modules["v3.safetensors"] = MotionModule(V3, module.layout, "v3.safetensors", "has positions for 8 frames")
    host.modules["v3.safetensors"].load_state_dict(module.state_dict(), strict=False)
    for part in host.modules["v3.safetensors"].up_blocks:
        part["motion_modules"] = nn.ModuleList(list(part["motion_modules"])[:2])
    p = request(host)
    host.run(p)
    assert p.extra_generation_params["IV-mixed motion kind"] == "AnimateDiff v3"
    assert "motion module v3.safetensors has positions for 8 frames." in "\n".join(host.log.lines)
    assert MotionOptions.from_infotext(p.extra_generation_params).kind == "AnimateDiff v3"


def test_the_chosen_kind_is_the_modules(host):
    asked = []
    host.built_in._load = lambda path, loras, dtype, stamps, kind: asked.append(kind) or host.modules[path.name]
    p = request(host, kind="AnimateDiff v1")
    host.run(p)
    assert asked == ["AnimateDiff v1"] and p.extra_generation_params["IV-mixed motion kind"] == "AnimateDiff v1"
    q = request(host)
    host.run(q)
    assert asked[1:] == ["auto"] and "IV-mixed motion kind" not in q.extra_generation_params


# --- IV-mixed

@pytest.mark.parametrize("name", ["v1.safetensors", "v2.safetensors", "v3.safetensors"])
@pytest.mark.parametrize("size", [{}, LONG])
def test_iv_mixed_takes_it_as_its_motion(host, name, size):
    p = request(host, NAME, model=name, **size)
    host.run(p)
    video, image = p.sampler.model_wrap, host.denoiser()
    plan = make_plan(Options(), p.sampler.get_sigmas(p, p.steps).tolist(),
                     *(Schedule.from_sigmas(model.sigmas.tolist()) for model in (video, image)))
    assert len(host.evaluations) == plan.evaluations == 9
    for move, evaluation in zip(plan.moves, host.evaluations):
        for call in evaluation.calls:
            model = image if move.model == "image" else video
            assert torch.equal(call.t, model.sigma_to_t(evaluation.sigma[:1]).expand(len(call.t)))
            expected = host.unet(call.x, timesteps=call.t, context=call.context)
            if move.model == "video":
                expected = moved(host, call, host.modules[name], 4)
            assert torch.equal(call.out, expected)
    assert p.extra_generation_params[NAME] == "9 evaluations"


@pytest.mark.parametrize("prompts", [
    {"prompt": "a BREAK b"}, {"negative_prompt": "a BREAK b BREAK c"}, {"s_min_uncond": 100.0},
    {"s_min_uncond": 100.0, "prompt": "a BREAK b"}])
def test_without_an_extra_loop_it_is_euler_s_clip(host, prompts):
    """It needs no padding, and no negative prompt where the user's settings leave it out."""
    host.shared.opts.s_min_uncond_all = True
    clips = []
    for sampler, options in (("Euler", None), (NAME, {"interval": [0, 0]}), (NAME, {})):
        p = request(host, sampler, options=options, **LONG)
        vars(p).update(prompts)
        clips.append(host.run(p))
        assert p.extra_generation_params.get("NGMS") == prompts.get("s_min_uncond")
        assert "Pad conds" not in p.extra_generation_params
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])
    said = [line for line in host.log.lines if "held off" in line]
    assert said == ["'Negative Guidance minimum sigma' (NGMS) held off in the extra moves: they need the negative "
                    "prompt"] * ("s_min_uncond" in prompts)


# --- what is refused

@pytest.mark.parametrize("motion, words", [
    ({"model": "v4.safetensors"}, ["model = 'v4.safetensors'", "v3.safetensors"]),
    ({"frames": 1}, ["frames = 1", "2 to 1024"]),
    ({"frames": 2.5}, ["frames = 2.5", "whole number"]),
    ({"formats": ["AVI"]}, ["formats", "AVI", "GIF"]),
    ({"overlap": 16}, ["overlap = 16 cannot be used with context = 16", "below 16"]),
    ({"frame": 4}, ["frame = 4", "did you mean frames"]),
    ({"loras": "zoom:much"}, ["loras", "zoom:much"]),
    ({"loras": "zoom"}, ["loras", "zoom", "not there"]),
    ({"kind": "v1"}, ["kind = 'v1'", "auto, AnimateDiff v1"]),
    ({"frames": 12, "context": 12}, ["1 to 8 frames"]),
    ({"model": "xl.safetensors"}, ["AnimateDiff-SDXL for SDXL", "choose a motion module"]),
])
def test_wrong_input_is_refused_and_nothing_stays(host, motion, words):
    before = host.run(host.still("Euler"))
    snapshot = host.snapshot()
    with pytest.raises(host.sampler.RefusedError) as refused:
        host.run(request(host, **motion))
    assert refused.value.status_code == 422
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)
    assert host.evaluations == []
    assert snapshot.changed(host.snapshot()) == set()
    assert torch.equal(host.run(host.still("Euler")), before)


@pytest.mark.parametrize("chunk, sizes", [(0, [8, 4]), (2, [4, 4, 4])])
def test_the_image_model_may_take_fewer_frames_at_a_time(host, chunk, sizes):
    host.shared.opts.set("ivmixed_chunk", chunk)
    p = request(host, NAME, **LONG)
    host.run(p)
    plan = make_plan(Options(), p.sampler.get_sigmas(p, p.steps).tolist())
    for move, evaluation in zip(plan.moves, host.evaluations):
        if move.model == "image":
            assert [len(call.x) for call in evaluation.calls] == sizes


def test_two_motions_at_once_are_refused(host):
    for module in ("v3", "gone"):  # with one that is not there AnimateDiff stops, and the host only logs it
        p = request(host)
        params = host.animatediff.AnimateDiffProcess(model=module, video_length=4, batch_size=4)
        p.script_args = host.arguments({MOTION: [{"model": "v3.safetensors", "frames": 4}], "AnimateDiff": [params]})
        with pytest.raises(host.sampler.RefusedError, match="cannot be used with AnimateDiff: that puts motion"):
            host.run(p)
        assert not host.motion.AnimateDiffMM.mm_injected and host.evaluations == []


def test_motion_of_ours_goes_in_once(host):
    unet, module = host.model.model.diffusion_model, host.modules["v3.safetensors"]
    with attach(unet, module), pytest.raises(MotionError, match="motion already"), attach(unet, module):
        pass


@pytest.mark.parametrize("pictures, words", [
    (3, "frames = 4 cannot be used with 3 init_images.*take 3 frames"), (6, "take 6"),
    (0, "init_images = .. is not allowed; allowed: one picture, or 4")])
def test_pictures_that_do_not_fit_the_frames_are_refused(host, pictures, words):
    p = request(host)
    p.init_images = [None] * pictures
    with pytest.raises(host.sampler.RefusedError, match=words):
        host.run(p)


@pytest.mark.parametrize("fields", [{"refiner_checkpoint": "loaded"},
                                    {"enable_hr": True, "hr_checkpoint_name": "loaded"}])
@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_one_checkpoint_throughout(host, tmp_path, sampler, fields):
    host.sd_models.folder = tmp_path
    for name in ("own", "other"):
        (tmp_path / f"{name}.safetensors").touch()
    host.sd_models.list_models()
    host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
    clips = []
    for name in (None, "own", "other"):
        p = request(host, sampler)
        vars(p).update({key: name if value == "loaded" else value for key, value in fields.items()})
        if name == "other":
            host.evaluations.clear()
            with pytest.raises(host.sampler.RefusedError, match=r"= 'other' cannot be used with a clip.* none, or own"):
                host.answer(p)
            assert host.evaluations == []
        else:
            clips.append(host.run(p))
    assert torch.equal(*clips)


def test_nothing_of_animatediff_stays_after_a_refusal(host):
    """It puts its motion in before this extension says no, and takes it out only at the end."""
    before = host.run(host.still("Euler"))
    params = host.animatediff.AnimateDiffProcess(model="v3", video_length=4, batch_size=4)
    p = request(host)
    p.script_args = host.arguments({MOTION: [{"model": "gone"}], "AnimateDiff": [params]})
    with pytest.raises(host.sampler.RefusedError, match="'gone'"):
        host.run(p)
    assert not host.motion.AnimateDiffMM.mm_injected
    host.script("AnimateDiff").hacked = False  # as that of another tab
    assert torch.equal(host.run(host.still("Euler")), before)


@pytest.mark.parametrize("sampler", ["Euler", NAME])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_nothing_stays_after_an_error(host, sampler, error):
    before = host.run(host.still("Euler"))
    snapshot = host.snapshot()
    host.fail_at = (2, 1, error)
    with pytest.raises(type(error)):
        host.run(request(host, sampler, **LONG))
    host.fail_at = None
    assert snapshot.changed(host.snapshot()) == set()
    assert torch.equal(host.run(host.still("Euler")), before)


def test_off_it_changes_nothing(host):
    p = host.still("Euler")
    assert "sample" not in vars(p)
    host.run(p)
    assert "sample" not in vars(p) and p.batch_size == 1


# --- the clip

def finished(host, p, tmp_path, **more):
    """What a request's pictures become."""
    p.outpath_samples = str(tmp_path / "out")
    p.width = p.height = 8
    host.runner.before_process(p)
    clip = host.module("request").of(p).clip
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(clip.frames)]
    result = host.processing.Processed(frames, ["prompt, é\nSteps: 3"] * len(frames), [7] * len(frames), **more)
    host.output.finish(clip, result)
    return frames, result


def test_a_page_shows_the_clip_and_keeps_its_frames(host, tmp_path):
    p = request(host, formats=["GIF", "WebP", "PNG"], fps=10)
    p.is_api = False
    frames, result = finished(host, p, tmp_path)
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [path.suffix for path in files] == [".png"] * 4 + [".gif", ".webp"]
    assert len(result.images) == len(result.infotexts) == 1
    assert result.images[0].already_saved_as == str(files[4])
    for path, frame in zip(files, frames):
        with Image.open(path) as picture:
            assert np.array_equal(picture, frame)
            assert picture.text["parameters"] == result.infotexts[0]
    with Image.open(files[5]) as moving:
        assert [np.array_equal(frame.convert("RGB"), given)
                for frame, given in zip(ImageSequence.Iterator(moving), frames)] == [True] * 4
        comment = b"UNICODE\0" + result.infotexts[0].encode("utf-16-be")
        assert moving.getexif().get_ifd(0x8769)[0x9286] == comment
        assert struct.pack(">HHI", 0x9286, 7, len(comment)) in moving.info["exif"]  # of the type that the host reads
    with Image.open(files[4]) as moving:
        assert (moving.n_frames, moving.info["duration"]) == (4, 100)
        assert moving.info["comment"].decode() == result.infotexts[0]


@pytest.mark.parametrize("chosen", [0, None, "None"])
def test_the_api_gets_the_files(host, tmp_path, chosen):
    p = request(host, formats=["GIF", "PNG"])
    p.script_args = (chosen, *p.script_args[1:])  # the last where the request has infotext
    p.do_not_save_samples = True
    frames, result = finished(host, p, tmp_path)
    assert not (tmp_path / "out").exists()
    moving = Image.open(io.BytesIO(base64.b64decode(result.images[0])))
    assert moving.n_frames == 4
    assert result.images[1:] == frames


@pytest.mark.parametrize("error", [OSError(28, "disk full"), MemoryError("disk full"), RuntimeError("disk full")])
def test_a_clip_outlives_a_writer_that_fails(host, tmp_path, monkeypatch, error):
    def full(path, *args):
        path.write_bytes(b"GIF89a")
        raise error

    monkeypatch.setitem(host.output.WRITERS, ".gif", full)
    p = request(host, formats=["GIF"])
    p.is_api = False
    frames, result = finished(host, p, tmp_path)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.suffix for path in written] == [".png"] * 4
    assert result.images == frames
    assert "disk full" in result.comments and "disk full" in result.extra_generation_params[host.output.PROBLEM]
    assert host.output.PROBLEM not in p.extra_generation_params


@pytest.mark.parametrize("formats, shown", [(["PNG"], [".png"] * 4), (["MP4"], [".gif"]), (["MP4", "PNG"], [".gif"])])
def test_a_page_shows_clips_from_files(host, tmp_path, formats, shown):
    """The host would write pictures without one by itself, into a folder that may not be there."""
    p = request(host, formats=formats)
    p.is_api = False
    frames, result = finished(host, p, tmp_path)
    files = [Path(picture.already_saved_as) for picture in result.images]
    assert [file.suffix for file in files] == shown and all(file.is_file() for file in files)
    if formats == ["PNG"]:
        assert all(np.array_equal(Image.open(file), frame) for file, frame in zip(files, frames))
    else:
        assert Image.open(files[0]).n_frames == 4 and (tmp_path / "out") not in files[0].parents


@pytest.mark.parametrize("is_api", [False, True])
def test_a_clip_outlives_an_output_folder_that_cannot_be_used(host, tmp_path, monkeypatch, caplog, is_api):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "out").write_text("a file stands in its place")
    p = request(host, formats=["GIF", "PNG"])
    p.is_api = is_api
    _, result = finished(host, p, tmp_path)
    files = sorted(path for path in (tmp_path / "temporary").rglob("*") if path.is_file())
    assert [path.suffix for path in files] == [".png"] * 4 + [".gif"]
    where = f"the clip is in {files[0].parent} instead"
    assert where in result.comments and where in result.extra_generation_params[host.output.PROBLEM]
    assert where in caplog.text
    moving = base64.b64decode(result.images[0]) if is_api else (files[4]).read_bytes()
    assert moving == files[4].read_bytes() and Image.open(io.BytesIO(moving)).n_frames == 4
    assert is_api or result.images[0].already_saved_as == str(files[4])


def test_a_clip_that_can_be_put_nowhere_is_answered_all_the_same(host, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    for is_api in (False, True):
        for saved in (False, True):
            p = request(host, formats=["GIF"])
            p.is_api, p.do_not_save_samples = is_api, not saved
            frames, result = finished(host, p, tmp_path)
            assert result.images == frames and "the clip is in no file" in result.comments


def test_clips_that_are_not_saved_go_again(host, tmp_path, monkeypatch):
    """The page's stay a while, those of the API go with its answer, and what a process left that is gone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(host.module("scratch"), "KEPT", 3)
    (tmp_path / "iv-mixed-left").mkdir()
    (tmp_path / "iv-mixed-left" / "in-use").touch()
    (tmp_path / "iv-mixed-mine").mkdir()  # of somebody else

    def clip(is_api):
        p = request(host, formats=["GIF"])
        p.is_api, p.do_not_save_samples = is_api, True
        return finished(host, p, tmp_path)[1].images[0]

    shown = [Path(clip(False).already_saved_as) for _ in range(5)]
    assert [path.is_file() for path in shown] == [False, False, True, True, True]
    clip(True)
    root, = (path for path in tmp_path.glob("iv-mixed-*") if path.name != "iv-mixed-mine")
    assert len([path for path in root.iterdir() if path.is_dir()]) == 2
    other = subprocess.run([sys.executable, "-c", SWEEP.format(host.module("scratch").__file__), str(tmp_path)],
                           capture_output=True, text=True, check=True).stdout.split()
    assert root.is_dir() and not Path(other[0]).exists()  # the other process had its own, and it went with it
    host.module("scratch")._end(root)
    assert not root.exists()


SWEEP = """
import importlib.util, sys, tempfile
tempfile.tempdir = sys.argv[1]
spec = importlib.util.spec_from_file_location("scratch", {!r})
scratch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scratch)
print(scratch.folder().parent)
"""


def test_a_missing_encoder_is_said_before_sampling(host, monkeypatch):
    monkeypatch.setattr(host.output, "can_write", lambda ending: ending != ".mp4")
    with pytest.raises(host.sampler.RefusedError, match="pip install av"):
        host.run(request(host, formats=["MP4"]))
    assert host.evaluations == []


def test_two_batches_are_two_clips(host, tmp_path):
    p = request(host)
    host.runner.before_process(p)
    frames = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in range(17)]
    texts = ["grid"] + [f"clip {k // 4}" for k in range(8)]
    masks = [frames[0]] + [frame for k in range(8) for frame in (frames[1 + k], frames[16])]
    p.outpath_samples = str(tmp_path)
    result = host.processing.Processed(masks, texts, list(range(8)), index_of_first_image=1)
    host.output.finish(host.module("request").of(p).clip, result)
    clips = [image for image in result.images if isinstance(image, str)]
    assert len(clips) == 2
    assert result.infotexts == ["clip 0"] * 5 + ["clip 1"] * 5
    assert result.images[6:] == frames[5:9]


# --- options, panel, infotext

@pytest.mark.parametrize("values, words", [
    ({"loras": "zoom:nan"}, "-10 to 10"), ({"loras": "zoom:1e999"}, "-10 to 10"), ({"loras": "zoom:-11"}, "-10 to 10"),
    ({"loras": ",".join(["zoom"] * 21)}, "at most 20"), ({"model": "\ud800"}, "surrogate"),
    ({"frames": 10**400}, "2 to 1024"), ({"formats": ["GIF"] * 10**4 + [{}]}, "a list of one or more of GIF"),
])
def test_values_beyond_what_a_clip_can_have(values, words):
    with pytest.raises(OptionError, match=words) as error:
        MotionOptions(**values)
    assert_in_words(str(error.value))


def test_names_do_not_meet_those_of_the_sampler():
    labels = [option.label for option in (*OPTIONS, *MOTION_OPTIONS.values()) if option.label]
    assert len(set(labels)) == len(labels)


def test_infotext_round_trip(host):
    options = MotionOptions(model="v3.safetensors", frames=24, fps=7.5, formats=("PNG", "GIF", "WebP"),
                            loras="zoom:0.5, pan", context=12, overlap=3, closed_loop="A", fuse="mean",
                            kind="AnimateDiff v1")
    line = host.infotext_utils.line_of(options.to_infotext())
    params = host.infotext_utils.parse(line)
    assert MotionOptions.from_infotext(params) == options
    script = host.script(MOTION)
    components = host.runner.inputs[script.args_from:script.args_to]
    updates = {id(field.component): field.function(params) for field in host.runner.infotext_fields}
    assert host.motion_panel.from_arguments([updates[id(component)] for component in components]) == options
    assert all(field.function({"Sampler": NAME}) in (None, False) for field in script.infotext_fields)


def test_the_panel_is_that_of_the_options(host):
    script = host.script(MOTION)
    components = host.runner.inputs[script.args_from:script.args_to]
    assert [component.elem_id.removeprefix(script.elem_id("")) for component in components[1:]] == [
        option.name for option in host.module("page.form").ordered(MotionOptions)]
    assert components[0].value is False
    assert host.motion_panel.from_arguments([component.value for component in components]) is None
    sent = [True, "v1.safetensors", *(component.value for component in components[2:])]
    assert host.motion_panel.from_arguments(sent) == MotionOptions(model="v1.safetensors")


def test_arguments_that_are_no_options(host):
    """What comes beside the API's object is refused: the host puts the defaults there, and only these may be."""
    for arguments in ([5], ["v3.safetensors"], [{"frames": 8}, *[None] * 12], [True, "v3.safetensors"],
                      [True, "v3.safetensors", *[16] * 9], [False, {"frames": 32}], [10**5000]):
        with pytest.raises(OptionError, match="one object") as error:
            host.motion_panel.from_arguments(arguments)
        assert_in_words(str(error.value))
    for more in [{"frames": 32}], [{"frames": 32}, {"fps": 12}], ["v1.safetensors", 8], [None, 8]:
        p = request(host)
        p.script_args = host.arguments({MOTION: [{"model": "v3.safetensors", "frames": 4}, *more]})
        with pytest.raises(host.sampler.RefusedError, match=r"args = .* comes after the first .*nothing beside"):
            host.run(p)
        assert host.evaluations == []


def test_the_defaults_beside_the_apis_object_are_those_of_any_page(host, tmp_path):
    """The list of modules may have begun with another when the API learned them."""
    host.load_scripts()
    given = host.arguments({MOTION: [{"model": "v2.safetensors", "frames": 4}]})
    (tmp_path / "AnimateDiff" / "a.safetensors").touch()
    host.load_scripts()
    script = host.script(MOTION)
    arguments = given[script.args_from:script.args_to]
    assert arguments[1] == "v1.safetensors"
    assert host.motion_panel.from_arguments(arguments).model == "v2.safetensors"


def test_of_a_pasted_infotext_one_bad_value_is_told_and_the_rest_taken(host):
    fields = host.script(MOTION).infotext_fields
    options = MotionOptions(model="v1.safetensors", frames=24, fps=7.5, stride=2, closed_loop="A")
    for field, text in (("frames", "many"), ("frames", "2000"), ("fps", "nan"), ("formats", "AVI"), ("overlap", "16"),
                        ("loras", "a:1e999"), ("closed_loop", "\ud800")):
        host.log.lines.clear()
        infotext = {**options.to_infotext(), MOTION_OPTIONS[field].label: text}
        tick, *pasted = (paste.function(infotext) for paste in fields)
        assert tick is True
        form = host.module("page.form")
        for value, option in zip(pasted, form.ordered(MotionOptions), strict=True):
            shown, = form.shown(option, getattr(options, option.name))
            assert value == (None if option.name == field else shown)
        assert len(host.log.lines) == 1 and host.log.lines[0].startswith(f"not pasted: IV-mixed: {field} = ")
    # without a module that can be read nothing is ticked
    assert fields[0].function({MOTION: "\ud800", f"{MOTION} frames": "8"}) is None
    assert fields[0].function({"Steps": "8"}) is False


def test_where_files_are_looked_for(host, tmp_path):
    extension = tmp_path / "ext" / "sd-webui-animatediff" / "model"
    chosen = tmp_path / "mine" / "deep"
    for folder in (extension, chosen):
        folder.mkdir(parents=True)
    (extension / "a.ckpt").touch()
    (extension / "notes.txt").touch()
    (chosen / "b.pth").touch()
    host.shared.opts.data["animatediff_model_path"] = str(chosen.parent)
    own = tmp_path / "own"
    own.mkdir()
    (own / "c.pt").touch()
    host.shared.opts.set("ivmixed_motion_folder", str(own))
    host.built_in.paths.extensions_dir = str(tmp_path / "ext")
    found = host.built_in.files()
    assert found["a.ckpt"] == extension / "a.ckpt" and found["b.pth"] == chosen / "b.pth"
    assert found["c.pt"] == own / "c.pt" and set(found) == {"a.ckpt", "b.pth", "c.pt", *KINDS}


def test_the_walk_for_files_is_bounded(host, tmp_path, monkeypatch):
    folder = tmp_path / "own"
    (folder / "deep").mkdir(parents=True)
    for name in ("deep/a.ckpt", "b.ckpt", "c.ckpt", "notes.txt"):
        (folder / name).touch()
    (folder / "deep" / "back").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "AnimateDiff")
    (folder / "d.ckpt").mkdir()
    (folder / "lost.ckpt").symlink_to(tmp_path / "nowhere")
    with open(os.fsencode(folder) + b"/bad\xff.ckpt", "wb"):
        pass
    host.shared.opts.set("ivmixed_motion_folder", str(folder))
    host.log.lines.clear()
    found = host.built_in.files()
    assert list(found) == ["b.ckpt", "c.ckpt", "a.ckpt", *KINDS]
    assert found["v1.safetensors"] == folder / "linked" / "v1.safetensors"
    assert len(host.log.lines) == 1 and "bad\\udcff.ckpt' is left out: rename it" in host.log.lines[0]
    for name, value, left in ("MOST_DEPTH", 0, ["b.ckpt", "c.ckpt", *KINDS]), ("MOST_ENTRIES", 3, None):
        monkeypatch.setattr(host.built_in, name, value)
        found = list(host.built_in.files())
        assert found == left if left else len(found) <= 3
    for _ in range(2):
        host.built_in.files()
    assert len(host.log.lines) == 2 and "more than 3 files and folders" in host.log.lines[1]
    for nothing in ("\0", "x" * 10_000, str(folder / "b.ckpt"), "nowhere"):
        host.shared.opts.set("ivmixed_motion_folder", nothing)
        assert host.built_in.folders() == [tmp_path / "AnimateDiff"]


def test_the_folder_is_guarded_as_the_hosts_own_are(host, monkeypatch):
    opts, key = host.shared.opts, "ivmixed_motion_folder"
    assert not opts.set(key, "/", is_api=True) and opts.set(key, "mine")
    monkeypatch.setattr(host.shared, "hide_dirs", {"visible": False})
    host.load_scripts()
    assert host.shared.settings_page[key].component_args == {"visible": False}
    assert not opts.set(key, "/") and opts.ivmixed_motion_folder == "mine"


def test_the_infotext_has_the_prompt_as_written(host):
    text = "0: one\n2: two"
    p = request(host, prompt=text)
    host.run(p)
    assert p.prompts == [text] * 4 and p.prompt == text


def test_what_goes_wrong_in_a_hook_stops_the_generation(host, monkeypatch):
    """The host only logs it, and would make a still."""
    def broken(p, options):
        raise OSError("the folder cannot be read")

    monkeypatch.setattr(host.module("builtin.generation"), "_check", broken)
    with pytest.raises(OSError, match="the folder cannot be read"):
        host.run(request(host))
    assert host.evaluations == []


# --- motion strength, noise and FreeInit

def test_strength_1_is_the_clip_of_always_and_0_makes_stills(host):
    plain = host.run(request(host, **LONG))
    assert torch.equal(host.run(request(host, **LONG, motion_strength=1, motion_strength_frames="0=1 5=1")), plain)
    host.evaluations.clear()
    stills = host.run(request(host, **LONG, motion_strength=0))
    assert [len(call.x) for call in host.evaluations[0].calls] == [8, 4]  # no frame twice
    for evaluation in host.evaluations:
        for call in evaluation.calls:
            assert torch.equal(call.out, host.unet(call.x, timesteps=call.t, context=call.context))
    assert (stills - plain).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_strength_over_steps_and_frames(host, sampler):
    """Of three steps the first is of stills; then what motion adds to a frame in a window is that frame's share."""
    host.run(request(host, sampler, options={"interval": [0, 0]} if sampler == NAME else None, **LONG,
                     motion_strength="0=0 50=1 100=2", motion_strength_frames="0=1 5=0", attention_scale=0.5))
    module, unet = host.modules["v3.safetensors"], host.model.model.diffusion_model
    assert len(host.evaluations[0].calls) == 2
    for evaluation, of_step in zip(host.evaluations[1:], (1, 2)):
        windows = uniform_windows(evaluation.step, 6, 4)
        assert len(evaluation.calls) == len(windows)
        for call, window in zip(evaluation.calls, windows):
            with torch.no_grad(), attach(unet, module) as motion:
                motion.frames, motion.attention_scale = 4, 0.5
                motion.strength = torch.tensor([of_step * (1 - frame / 5) for frame in window])
                expected = unet(call.x, timesteps=call.t, context=call.context)
            torch.testing.assert_close(call.out, expected, rtol=0, atol=1e-6)
            assert not torch.allclose(call.out, moved(host, call, module, 4))


def test_motion_strength_is_an_axis_of_the_plot(host):
    cells = host.plot.run(request(host), "[IV-mixed] motion strength", "0, 0.5, 2 to 1")
    for (cell, _), strength in zip(cells, (0, 0.5, (2, 1))):
        alone = request(host, motion_strength=strength)
        assert torch.equal(host.run(alone), cell.latents)
    assert len(cells) == 3
    off = host.still("Euler")
    with pytest.raises(host.sampler.RefusedError, match="cannot be used with motion that is off"):
        host.plot.run(off, "[IV-mixed] motion strength", "0.5")


def test_a_keyframe_beyond_the_clip_is_refused(host):
    words = r"motion_strength_frames = '0=1 9=0' cannot be used with frames = 4"
    with pytest.raises(host.sampler.RefusedError, match=words):
        host.run(request(host, motion_strength_frames="0=1 9=0"))


@pytest.mark.parametrize("noise", ["freenoise", "repeat"])
@pytest.mark.parametrize("hires", [False, True])
def test_long_clips_begin_with_the_noise_of_the_first_window(host, noise, hires):
    p = request(host, frames=7, context=4, noise=noise)
    p.enable_hr = hires
    create = host.sd_samplers.create_sampler
    host.run(p)
    own = p.noise(7)
    rows = order(noise, 7, 4, 3, torch.Generator().manual_seed(p.seeds[0]))
    first = host.evaluations[0]
    torch.testing.assert_close(first.x[:7], own[rows] * first.sigma[0])
    if hires:
        second = host.evaluations[3]
        clean, other = (second.x[:7] - begun * second.sigma[0] for begun in (own[rows], own))
        assert clean.std() < other.std()
    assert host.sd_samplers.create_sampler is create


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_free_init_samples_again_and_leaves_nothing(host, sampler):
    before = host.run(request(host, sampler))
    count, snapshot = len(host.evaluations), host.snapshot()
    p = request(host, sampler, free_init=3, free_init_filter="gaussian")
    clip = host.run(p)
    assert len(host.evaluations) == 3 * count
    if sampler == "Euler":  # the extra loop asks first at another level
        abar, noises = V3.alphas_cumprod()[-1].item(), p.generators(4)
        noise = noises.next()
        again = mixed(abar**0.5 * before + (1 - abar) ** 0.5 * noise, noises.next(), "gaussian")
        first, second = host.evaluations[0], host.evaluations[count]
        torch.testing.assert_close(first.x[:4], noise * first.sigma[0])
        torch.testing.assert_close(second.x[:4], again * second.sigma[0], rtol=0, atol=1e-4)
    assert (clip - before).abs().max() > 1e-2
    assert p.extra_generation_params["IV-mixed motion FreeInit"] == "3"
    assert torch.equal(host.run(request(host, sampler)), before)
    assert snapshot.changed(host.snapshot()) == set()


def test_an_interrupt_ends_free_init(host):
    host.on_evaluated.append(lambda count: host.shared.state.interrupt() if count == 4 else None)
    clip = host.run(request(host, free_init=3))
    assert len(host.evaluations) == 4 and clip.isfinite().all()


def test_free_init_of_pictures_is_refused(host):
    p = request(host, free_init=2)
    p.init_images, p.init_latent = [Image.new("RGB", (32, 32))], torch.zeros(4, 4, 4, 4)
    with pytest.raises(host.sampler.RefusedError, match=r"free_init = 2 cannot be used with img2img"):
        host.run(p)


def test_steps_and_scale_that_do_not_fit_a_distilled_module_are_said(host):
    host.modules["v2.safetensors"].kind = LIGHTNING[4]
    p = request(host, model="v2.safetensors")
    host.run(p)
    said = "AnimateDiff-Lightning 4-step was distilled to 4 steps at CFG scale 1 or less, and the clip has 3 steps and"
    assert [line for line in host.log.lines if line.startswith(said)] and any(said in text for text in p.comments)
