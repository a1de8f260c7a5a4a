"""A clip that begins with another, on tiny random models: against diffusers, the plan, strength 0, masks, the CLI."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffVideoToVideoPipeline, EulerDiscreteScheduler
from PIL import Image

from ivmixed import OptionError, Options, Schedule
from ivmixed.clips.encode import MediaError
from ivmixed.clips.media import read_clip, read_settings, write_clip
from ivmixed.standalone import IVMixedPipeline, Settings, generate
from ivmixed.standalone.cli import main
from ivmixed.standalone.pipeline import plan_of
from ivmixed.standalone.settings import BOX

from . import tiny

PROMPT, NEGATIVE = "a red kite", "blurry"
PLAIN = Options(interval=(0, 0))


def frames(count=4, side=16, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return small.repeat(side // 4, 1).repeat(side // 4, 2)


def noise(count=4, side=8):
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(5))


# --- against diffusers

@pytest.mark.parametrize("strength, steps", [(0.2, 2), (0.5, 4), (0.8, 5)])
def test_it_is_diffusers_video_to_video(strength, steps):
    """Of 6 steps the hosts take int(6 strength) + 1, diffusers int(6 strength): so it is asked for as many."""
    video = tiny.animatediff()
    schedule = {**tiny.LINEAR, "timestep_spacing": "linspace"}
    schedule = {key: value for key, value in schedule.items() if key in EulerDiscreteScheduler().config}
    theirs = AnimateDiffVideoToVideoPipeline(
        video.vae, video.text_encoder, video.tokenizer, video.unet, None, EulerDiscreteScheduler(**schedule))
    theirs.set_progress_bar_config(disable=True)
    ours = IVMixedPipeline(video)
    clip = ours(PROMPT, NEGATIVE, frames=4, width=16, height=16, steps=6, options=PLAIN, latents=noise(), init=frames(),
                strength=strength, progress=False)
    assert clip.plan.steps == clip.plan.evaluations == steps
    start = ours.encode(frames()) + noise() * clip.plan.moves[0].sigma_from
    made = theirs(None, PROMPT, height=16, width=16, num_inference_steps=6, strength=steps / 6 + 1e-6,
                  guidance_scale=7.5, negative_prompt=NEGATIVE, latents=start.transpose(0, 1)[None],
                  output_type="latent").frames
    expected = made[0].transpose(0, 1)
    torch.testing.assert_close(clip.latents, expected, rtol=1e-4, atol=1e-3)
    assert (clip.latents - start).abs().max() > 0.1


@torch.no_grad()
def test_frames_are_encoded_as_diffusers_encodes_them():
    video = tiny.animatediff()
    pixels = torch.from_numpy(frames(6)).permute(0, 3, 1, 2) / 127.5 - 1
    expected = video.vae.encode(pixels).latent_dist.mean * video.vae.config.scaling_factor
    torch.testing.assert_close(IVMixedPipeline(video).encode(frames(6)), expected)


# --- strength

@pytest.mark.parametrize("strength, steps", [(0.04, 2), (0.6, 16), (0.96, 25), (1.0, 25)])
def test_the_plan_is_the_last_steps_of_the_whole_one(strength, steps):
    tables = Schedule.linear(), Schedule.scaled_linear()
    whole, part = (plan_of(*tables, 25, Options(), strength=value) for value in (None, strength))
    assert part.steps == steps
    last = [move.sigma_from for move in whole.moves if move.kind == "ordinary"][-steps:]
    assert [move.sigma_from for move in part.moves if move.kind == "ordinary"] == last
    assert part.evaluations == 5 * steps - 6  # the last step is plain, the one before has no move below its end


def test_strength_0_gives_the_frames_through_the_vae():
    pipe = IVMixedPipeline(tiny.animatediff())
    clip = pipe(PROMPT, frames=4, width=16, height=16, init=frames(), strength=0, progress=False)
    assert clip.plan.evaluations == clip.plan.steps == 0
    assert np.array_equal(clip.frames, pipe.decode(pipe.encode(frames())).numpy())


def test_a_weak_clip_is_nearer_to_its_input():
    pipe = IVMixedPipeline(tiny.animatediff())
    start = pipe.encode(frames())
    far = [(pipe(PROMPT, frames=4, width=16, height=16, steps=8, init=frames(), strength=strength, seed=1,
                 progress=False).latents - start).norm() for strength in (0.1, 0.4, 0.7)]
    assert far == sorted(far)


@pytest.mark.parametrize("given, field", [
    ({"loop": "animatediff"}, "loop"), ({"init": frames(3)}, "init"), ({"mask": frames()}, "mask"),
    ({"mask": frames()[..., 0], "options": Options(image_size=(16, 16))}, "image_size"),
    ({"mask": frames()[..., 0], "init": None}, "mask")])
def test_what_cannot_be_is_refused(given, field):
    pipe = IVMixedPipeline(tiny.animatediff())
    with pytest.raises(OptionError) as refused:
        pipe(PROMPT, **{"frames": 4, "width": 16, "height": 16, "init": frames(), "progress": False, **given})
    assert refused.value.field == field


# --- masks

@pytest.mark.parametrize("options", [Options(), PLAIN, Options(finish_percent=50, finish_smoothing=100)])
def test_what_the_mask_keeps_stays(options):
    pipe = IVMixedPipeline(tiny.animatediff())
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[2:] = 255  # the last two frames whole
    mask[1, :, 8:] = 255  # half of the second
    clip = pipe(PROMPT, frames=4, width=16, height=16, steps=4, options=options, init=frames(), strength=1, mask=mask,
                progress=False)
    start = pipe.encode(frames())
    torch.testing.assert_close(clip.latents[0], start[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip.latents[1, :, :, :4], start[1, :, :, :4], rtol=1e-4, atol=1e-4)
    assert all((clip.latents[rows] - start[rows]).abs().mean() > 0.1 for rows in (slice(2, 4), (1, ..., slice(4, 8))))


# --- the command line

@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return tiny.saved(tmp_path_factory.mktemp("models") / "video", tiny.animatediff())


def run(capsys, video, *more):
    base = ["txt2vid", "--checkpoint", video, "--prompt", "a kite", "--steps", 4, "--size", "16x16", "--seed", 1,
            "--device", "cpu", "--quiet"]
    code = main([*map(str, base), *map(str, more)])
    return code, *capsys.readouterr()


def test_a_video_becomes_another(capsys, tmp_path, video):
    write_clip(tmp_path / "in.mp4", frames(12), 24, {})
    out = tmp_path / "out.png"
    code, said, log = run(capsys, video, "--init-video", tmp_path / "in.mp4", "--strength", 0.5, "--out", out, "--json")
    assert code == 0 and "4 frames of in.mp4, 8 a second from its start" in log
    settings = read_settings(out)
    assert settings["frames"] == 4 and settings["strength"] == 0.5
    assert json.loads(said)["clips"]["IV-mixed"]["evaluations"] == 9
    assert read_settings(tmp_path / "out-0001.png")["init_video"] == str(tmp_path / "in.mp4")
    again = generate(Settings.from_dict(settings), "cpu", progress=False)
    assert np.array_equal(again.frames, read_clip(out)[0])


def test_strength_0_by_the_command_line(capsys, tmp_path, video):
    for k, frame in enumerate(frames(3)):
        Image.fromarray(frame).save(tmp_path / f"{k}.png")
    out = tmp_path / "made" / "out.webp"
    out.parent.mkdir()
    assert run(capsys, video, "--init-video", tmp_path, "--strength", 0, "--out", out)[0] == 0
    pipe = IVMixedPipeline(tiny.animatediff())
    assert np.array_equal(read_clip(out)[0], pipe.decode(pipe.encode(frames(3))).numpy())
    code, said, _ = run(capsys, video, "--init-video", tmp_path, "--strength", 0, "--plan")
    assert code == 0 and "0 evaluations" in said


def test_a_mask_video_keeps_frames(capsys, tmp_path, video):
    write_clip(tmp_path / "in.webp", frames(4), 8, {})
    mask = np.zeros((4, 16, 16, 3), np.uint8)
    mask[2:] = 255
    write_clip(tmp_path / "mask.gif", mask, 8, {})
    out = tmp_path / "out.webp"
    assert run(capsys, video, "--init-video", tmp_path / "in.webp", "--strength", 1, "--mask-video",
               tmp_path / "mask.gif", "--out", out)[0] == 0
    pipe = IVMixedPipeline(tiny.animatediff())
    through = pipe.decode(pipe.encode(frames())).numpy().astype(int)
    change = np.abs(read_clip(out)[0] - through).mean((1, 2, 3))
    assert (change[:2] < 1).all() and (change[2:] > 5).all()


@pytest.mark.parametrize("words, message", [
    (["--strength", 0.5], "strength = 0.5 cannot be used with no init_video"),
    (["--mask-video", "in.webp"], "cannot be used with no init_video"),
    (["--init-video", "gone.mp4"], "there is no file"),
    (["--init-video", "broken.mp4"], "broken.mp4 cannot be read as a clip"),
    (["--init-video", "in.webp", "--strength", 2], "strength"),
    (["--init-video", "in.webp", "--loop", "animatediff"], "loop = 'animatediff' cannot be used with init_video"),
    (["--init-video", "in.webp", "--mask-video", "in.webp", "--image-size", "8x8"], "image_size"),
])
def test_refusals_are_one_line(capsys, tmp_path, monkeypatch, video, words, message):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.webp", frames(4), 8, {})
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(99))
    code, said, log = run(capsys, video, "--out", "out.gif", *words)
    assert code == 2 and said == "" and message in log and log.count("\n") == 1
    assert not (tmp_path / "out.gif").exists()


def test_the_files_that_a_clip_names_are_not_opened_unasked(capsys, tmp_path, video):
    write_clip(tmp_path / "in.webp", frames(4), 8, {})
    made = Settings(checkpoint=BOX, prompt="x", init_video=str(tmp_path / "in.webp"), strength=0.5).to_dict()
    write_clip(tmp_path / "out.gif", frames(2), 8, made)
    assert main(["txt2vid", "--from", str(tmp_path / "out.gif"), "--plan"]) == 2
    assert "--init-video" in capsys.readouterr()[1]


def test_reading_is_checked_before_models_are_loaded(tmp_path):
    with pytest.raises(MediaError, match="there is no file"):
        generate(Settings(prompt="x", init_video=str(tmp_path / "gone.gif")), "cpu")
