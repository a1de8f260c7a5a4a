"""ControlNets on tiny random models: against diffusers, frame by frame, on either model, the command line, batches."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline, EulerDiscreteScheduler
from PIL import Image

from ivmixed import OptionError, Options
from ivmixed.clips.media import read_clip, read_settings, write_clip
from ivmixed.controls import MotionControls
from ivmixed.cost import CONTROLNET, WHOLE, times_plain
from ivmixed.standalone import IVMixedPipeline, Settings, generate, txt2vid
from ivmixed.standalone.batch import jobs
from ivmixed.standalone.batch.rows import row_of
from ivmixed.standalone.cli import main
from ivmixed.standalone.control import ActingControl, Control

from . import tiny

PROMPT, NEGATIVE = "a red kite", "blurry"
PLAIN = Options(interval=(0, 0))
CLIP = {"negative_prompt": NEGATIVE, "width": 16, "height": 16, "progress": False}


def hints(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


def noise(count=6):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def pipe():
    return IVMixedPipeline(tiny.animatediff(), controlnets=[tiny.controlnet()])


def clip(pipe, *controls, frames=6, **more):
    given = {"frames": frames, "steps": 4, "latents": noise(frames), "controls": controls}
    return pipe(PROMPT, **{**CLIP, **given, **more})


# --- what it does

@pytest.mark.parametrize("strength, start, end", [(1.0, 0.0, 1.0), (0.5, 0.3, 0.8)])
def test_it_is_diffusers_animatediff_controlnet(pipe, strength, start, end):
    video = pipe.video
    schedule = {**tiny.LINEAR, "timestep_spacing": "linspace"}
    schedule = {key: value for key, value in schedule.items() if key in EulerDiscreteScheduler().config}
    theirs = AnimateDiffControlNetPipeline(
        video.vae, video.text_encoder, video.tokenizer, video.unet, None, pipe.controlnets[0],
        EulerDiscreteScheduler(**schedule))
    theirs.set_progress_bar_config(disable=True)
    ours = clip(pipe, Control(hints(), strength, start, end), steps=6, options=PLAIN).latents
    same = noise() * (1 + pipe.video_table.sigma_max**-2)**0.5  # which Euler's scheduler leaves out
    expected = theirs(
        PROMPT, 6, 16, 16, 6, 7.5, NEGATIVE, latents=same.transpose(0, 1)[None], output_type="latent",
        conditioning_frames=[Image.fromarray(hint) for hint in hints()], controlnet_conditioning_scale=strength,
        control_guidance_start=start, control_guidance_end=end).frames[0].transpose(0, 1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
    assert (ours - clip(pipe, steps=6, options=PLAIN).latents).abs().max() > 0.5


def test_one_that_does_not_act_changes_nothing(pipe):
    without = clip(pipe).latents
    for told in {"strength": 0.0}, {"start": 0.9, "end": 0.95}:
        assert torch.equal(clip(pipe, Control(hints(), **told)).latents, without)


def test_every_frame_has_its_own_hint_in_windows_and_chunks(pipe):
    """Of stills that begin alike the order is that of their hints."""
    stills = {"motion": MotionControls(motion_strength=0, context=4), "latents": noise(1).expand(6, -1, -1, -1)}
    order = [3, 5, 0, 1, 4, 2]
    made, other = (clip(pipe, Control(given), **stills).latents for given in (hints(), hints()[order]))
    torch.testing.assert_close(other, made[order], rtol=1e-3, atol=1e-2)  # of a size of 60
    assert (made[0] - made[1]).abs().max() > 0.5


def test_windows_take_the_hints_of_their_frames(pipe, monkeypatch):
    seen = []
    residuals = ActingControl.residuals
    monkeypatch.setattr(ActingControl, "residuals", lambda self, sample, timestep, context, frames, *more: (
        seen.append(frames), residuals(self, sample, timestep, context, frames, *more))[1])
    clip(pipe, Control(hints(), acts_on="video"), options=PLAIN, steps=2, motion=MotionControls(context=4, overlap=2))
    assert {tuple(frames.tolist()) for frames in seen} >= {(0, 1, 2, 3), (2, 3, 4, 5)}


def test_prompts_that_travel_are_heard_by_it_frame_by_frame(pipe):
    """The frames with the prompt of a clip that does not travel are those of that clip."""
    stills = {**CLIP, "frames": 6, "steps": 5, "latents": noise(), "controls": [Control(hints())], "options": PLAIN,
              "motion": MotionControls(motion_strength=0)}
    travels = pipe(f"0: {PROMPT}\n3: {PROMPT}\n4: other", **stills).latents
    whole = pipe(f", {PROMPT}, ", **stills).latents  # as a prompt that travels is put together
    torch.testing.assert_close(travels[:4], whole[:4], rtol=1e-3, atol=1e-2)
    assert (travels[4:] - whole[4:]).abs().max() > 0.1


@pytest.mark.parametrize("acts_on", ["both", "video", "image"])
@pytest.mark.parametrize("image", [False, True])
def test_it_acts_on_the_models_that_it_is_to_act_on(acts_on, image):
    own = tiny.stable_diffusion() if image else None
    pipe = IVMixedPipeline(tiny.animatediff(), own, controlnets=[tiny.controlnet()])
    calls = []
    pipe.controlnets[0].register_forward_hook(lambda *call: calls.append(1))
    plan = clip(pipe, Control(hints(3), acts_on=acts_on), frames=3).plan
    assert len(calls) == (plan.evaluations if acts_on == "both" else plan.count(acts_on))


def test_it_acts_on_the_image_model_of_another_kind_of_video_model():
    pipe = IVMixedPipeline(tiny.modelscope(), tiny.stable_diffusion(), controlnets=[tiny.controlnet()])
    with pytest.raises(OptionError, match="do not fit it; take image"):
        clip(pipe, Control(hints(3)), frames=3)
    steered = clip(pipe, Control(hints(3), acts_on="image"), frames=3, options=Options(image_size=(32, 32)))
    assert (steered.latents - clip(pipe, frames=3, options=Options(image_size=(32, 32))).latents).abs().max() > 0.1


def test_several_add_up():
    network = tiny.controlnet()
    one, two = (IVMixedPipeline(tiny.animatediff(), controlnets=[network] * count) for count in (1, 2))
    torch.testing.assert_close(clip(two, Control(hints(), 0.3), Control(hints(), 0.7)).latents,
                               clip(one, Control(hints())).latents, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_where_deep_features_serve_again_it_is_asked_for_its_first_layers_alone(pipe):
    control = ActingControl(pipe.controlnets[0], Control(hints(3), 0.7))
    given = noise(3), torch.tensor(500.0), torch.randn(3, 12, 16), slice(None), 1
    (whole, _), (shallow, middle) = (control.residuals(*given, shallow) for shallow in (False, True))
    torch.testing.assert_close(shallow[0], whole[0])
    assert len(shallow) == len(whole) and not any([*shallow[1:], middle])
    calls = []
    handle = pipe.controlnets[0].register_forward_hook(lambda *call: calls.append(1))
    made = clip(pipe, Control(hints()), options=Options(reuse_percent=65, reused="features"))
    handle.remove()
    assert len(calls) == sum(not move.reuse for move in made.plan.moves) < made.plan.evaluations
    near = clip(pipe, Control(hints())).latents
    assert 1e-3 < (made.latents - near).norm() / near.norm() < 0.3


@pytest.mark.parametrize("controls, field", [
    ([Control(hints(3))], "hints"), ([Control(hints())] * 2, "controls"),
    ([Control(np.zeros((6, 8, 8, 3), np.uint8))], "hints")])
def test_what_does_not_fit_the_clip_is_refused(pipe, controls, field):
    with pytest.raises(OptionError) as refused:
        clip(pipe, *controls)
    assert refused.value.field == field


@pytest.mark.parametrize("told, field", [({"start": 0.5, "end": 0.5}, "start"), ({"acts_on": "all"}, "acts_on")])
def test_numbers_out_of_their_range_are_refused(told, field):
    with pytest.raises(OptionError) as refused:
        Control(hints(), **told)
    assert refused.value.field == field


# --- the command line and batches

@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny.controlnet().save_pretrained(root / "net")
    return tiny.saved(root / "video", tiny.animatediff()), str(root / "net")


@pytest.fixture()
def run(capsys, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["txt2vid", "--checkpoint", models[0], "--prompt", "a kite", "--steps", 4, "--size", "16x16", "--seed", 1,
            "--device", "cpu", "--quiet"]

    def run(*more):
        code = main([*map(str, base), *map(str, more)])
        return code, *capsys.readouterr()
    return run


def test_a_clip_by_the_command_line(run, models, tmp_path):
    write_clip("hints.webp", hints(5), 8, {})
    steered = ["--controlnet", models[1], "--control-video", "hints.webp", "--control-strength", "0.8"]
    code, said, log = run(*steered, "--control-end", 0.8, "--out", "out.webp", "--json")
    assert code == 0 and "5 frames of hints.webp, 8 a second from its start" in log
    settings = json.loads(said)["settings"]
    assert settings["frames"] == 5 and settings["control_strength"] == [0.8] and settings["control_end"] == [0.8]
    assert read_settings("out.webp")["control_video"] == [str(tmp_path / "hints.webp")]
    again = generate(Settings.from_dict(settings), "cpu", progress=False)
    assert np.array_equal(again.frames, read_clip("out.webp")[0])
    pipe = IVMixedPipeline(tiny.animatediff(), controlnets=[tiny.controlnet()])
    by_hand = pipe("a kite", frames=5, width=16, height=16, steps=4, seed=1, progress=False,
                   controls=[Control(hints(5), 0.8, end=0.8)])
    assert np.array_equal(by_hand.frames, again.frames)
    assert main(["txt2vid", "--from", "out.webp", "--plan"]) == 2


def test_a_still_hint_is_for_all_frames_and_a_checkpoint_is_begun_from(run, models):
    Image.fromarray(hints(1)[0]).save("still.png")
    write_clip("in.webp", hints(4, seed=1), 8, {})
    code, _, log = run("--controlnet", models[1], "--control-video", "still.png", "--init-video", "in.webp",
                       "--strength", 0.5, "--out", "out.webp")
    assert code == 0 and "4 of the clip are spread evenly" in log and len(read_clip("out.webp")[0]) == 4


def test_several_and_the_price(run, models):
    write_clip("a.webp", hints(4), 8, {})
    words = ["--controlnet", models[1], "--controlnet", models[1], "--control-video", "a.webp",
             "--control-strength", 0.5, "--control-strength", 0, "--control-acts-on", "image", "--plan"]
    code, said, _ = run(*words, "--json")
    plan = json.loads(said)
    assert code == 0 and plan["controlnet"] == plan["image"]
    assert f"and {plan['image']} of a ControlNet" in run(*words)[1]


def test_the_price_counts_them_in_both_clips():
    plan = txt2vid.plan(Settings(prompt="x", steps=6, options={"interval": [0, 0]}))
    assert times_plain(plan, controlled=lambda move: 2) == pytest.approx(1)
    plan = txt2vid.plan(Settings(prompt="x", steps=6))
    expected = sum(WHOLE[move.model] + CONTROLNET * (move.model == "image") for move in plan.moves) / 6
    assert times_plain(plan, controlled=lambda move: move.model == "image") == pytest.approx(expected)


@pytest.mark.parametrize("words, message", [
    (["--control-video", "in.webp"], "cannot be used with no controlnet"),
    (["--control-strength", "0.5"], "cannot be used with no controlnet"),
    (["--controlnet", "NET"], "control_video = '' is missing"),
    (["--controlnet", "NET", "--control-video", "gone.mp4"], "there is no file"),
    (["--controlnet", "NET", "--control-video", "broken.mp4"], "broken.mp4 cannot be read as a clip"),
    (["--controlnet", "gone.safetensors", "--control-video", "in.webp"], "does not exist"),
    (["--controlnet", "CHECKPOINT", "--control-video", "in.webp"], "is a diffusers folder of AnimateDiffPipeline"),
    (["--controlnet", "NET", "--control-video", "in.webp", "--control-video", "in.webp"], "give one for all"),
    (["--controlnet", "NET", "--control-video", "in.webp", "--control-start", 1], "take a start below the end"),
    (["--controlnet", "NET", "--control-video", "in.webp", "--control-strength", 11], "control_strength"),
])
def test_refusals_are_one_line(run, models, words, message):
    write_clip("in.webp", hints(4), 8, {})
    with open("broken.mp4", "wb") as file:
        file.write(b"\0\0\0\x18ftypisom" + bytes(99))
    names = {"NET": models[1], "CHECKPOINT": models[0]}
    code, said, log = run("--out", "out.gif", *(names.get(word, word) for word in words))
    assert code == 2 and said == "" and message in log and log.count("\n") == 1


def test_one_that_never_acts_is_said(run, models):
    write_clip("in.webp", hints(4), 8, {})
    code, _, log = run("--controlnet", models[1], "--control-video", "in.webp", "--preset", "plain",
                       "--control-acts-on", "image", "--out", "out.gif")
    assert code == 0 and "no ControlNet acts in any step" in log


def test_rows_of_a_batch_have_them_and_a_clip_is_of_its_hints(models, tmp_path):
    write_clip(tmp_path / "a.webp", hints(4), 8, {})
    row = {"prompt": "x", "controlnet": models[1], "control_video": str(tmp_path / "a.webp"), "control_strength": "0.5"}
    settings = row_of(row, Settings(checkpoint=models[0]), "line 1").settings
    assert settings.controlnet == (models[1],) and settings.control_strength == (0.5,)
    settings = txt2vid.complete(settings, torch.device("cpu"))
    before = jobs.identity_of(settings)
    jobs._stats.cache_clear()
    write_clip(tmp_path / "a.webp", hints(5), 8, {})
    assert jobs.identity_of(settings) != before
