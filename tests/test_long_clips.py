"""Long clips, motion strength, FreeNoise and FreeInit of the standalone side, on a tiny AnimateDiff."""
from __future__ import annotations

import pytest
import torch

from ivmixed import ConflictError, OptionError, Options, Schedule
from ivmixed.controls import MotionControls
from ivmixed.motion import Travel, TravelError, uniform_windows
from ivmixed.motion.noise import mixed, order
from ivmixed.motion.windows import window_weights
from ivmixed.standalone import IVMixedPipeline
from ivmixed.standalone.denoiser import Denoiser, image_view
from ivmixed.standalone.motion import ActingMotion
from ivmixed.standalone.pipeline import plan_of

from . import tiny
from .test_motion_module import pair

PLAIN = Options(interval=(0, 0))
LONG = 11
"""Frames, of which 4 are seen at a time."""


def noise(frames: int = LONG) -> torch.Tensor:
    return torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def words() -> tuple[torch.Tensor, ...]:
    """Encoded prompts, each (1, tokens, width)."""
    return torch.randn(2, 1, 12, 16, generator=torch.Generator().manual_seed(1)).unbind()


def run(pipe, frames=LONG, steps=3, options=PLAIN, prompt="a red kite", **more):
    return pipe(prompt, "blurry", frames=frames, steps=steps, options=options, progress=False, **more)


def controls(**given) -> MotionControls:
    return MotionControls(**{"context": 4, **given})


def calls_of(network) -> list[int]:
    """Filled with the rows of each call: frames of all prompts."""
    rows: list[int] = []
    network.register_forward_pre_hook(lambda module, args: rows.append(
        args[0].shape[0] * (args[0].shape[2] if args[0].ndim == 5 else 1)))
    return rows


# --- one window, strength 1

@torch.no_grad()
def test_one_window_and_strength_1_are_the_model_itself():
    video = tiny.animatediff()
    cond, uncond = words()
    table = Schedule.linear()
    plan = plan_of(table, table, 3, PLAIN)
    alone, in_clip = (Denoiser(video.unet, table, "epsilon", uncond, cond, motion=motion)
                      for motion in (None, ActingMotion(MotionControls(context=6), 6)))
    with in_clip.motion.acting_in(video.unet):
        made = []
        for model in (alone, in_clip):
            model.expect(plan.moves[0], plan)
            made.append(model(noise(6), torch.tensor(0.0), 7.5))
        assert not any(module._forward_hooks for module in video.unet.modules())
    assert torch.equal(*made)


def test_a_clip_within_the_context_is_the_same_whatever_its_windows():
    pipe = IVMixedPipeline(tiny.animatediff())
    plain = run(pipe, 4, seed=3).latents
    for given in ({}, {"fuse": "pyramid"}, {"stride": 3, "closed_loop": "A"}, {"noise": "freenoise"}):
        assert torch.equal(run(pipe, 4, seed=3, motion=controls(**given)).latents, plain)


# --- windows

@pytest.mark.parametrize("fuse", ["last", "mean", "pyramid", "linear"])
@torch.no_grad()
def test_a_long_clip_is_evaluated_in_windows_and_fused(fuse):
    video, table = tiny.animatediff(), Schedule.linear()
    cond, uncond = words()
    motion = ActingMotion(controls(fuse=fuse, overlap=2), LONG)
    windowed = Denoiser(video.unet, table, "epsilon", uncond, cond, motion=motion)
    alone = Denoiser(video.unet, table, "epsilon", uncond, cond)
    plan = plan_of(table, table, 3, PLAIN)
    for move in plan.moves:
        windowed.expect(move, plan)
        total, weights = torch.zeros(LONG, 4, 8, 8), torch.zeros(LONG, 1, 1, 1)
        for window in uniform_windows(move.step, LONG, 4, 2):
            alone.expect(move, plan)
            part = alone(noise()[window], torch.tensor(0.0), 7.5)
            for frame, weight, made in zip(window, window_weights(fuse, 4, 2), part):
                if fuse == "last":
                    total[frame], weights[frame] = made, 1
                else:
                    total[frame] += weight * made
                    weights[frame] += weight
        made = windowed(noise(), torch.tensor(0.0), 7.5)
        torch.testing.assert_close(made, total / weights, rtol=0, atol=1e-4 * total.abs().max().item())


def test_networks_see_no_more_than_the_context_and_the_image_model_no_frame_twice():
    pipe = IVMixedPipeline(tiny.animatediff(), tiny.stable_diffusion())
    video, image = calls_of(pipe.video.unet), calls_of(pipe.image.unet)
    clip = run(pipe, 22, motion=controls(), options=Options(gamma_go=2, gamma_back=2))
    assert clip.frames.shape == (22, 16, 16, 3) and clip.latents.isfinite().all()
    assert set(video) == {8} and max(image) == 8
    assert sum(image) == 2 * 22 * clip.plan.count("image")
    windows = sum(len(uniform_windows(move.step, 22, 4, 1)) for move in clip.plan.moves if move.model == "video")
    assert len(video) == windows


def test_the_modules_own_table_is_not_exceeded():
    pipe = IVMixedPipeline(tiny.animatediff())  # it numbers 16 frames
    calls = calls_of(pipe.video.unet)
    with pytest.raises(OptionError, match=r"context = 17 is too much .*; allowed: a whole number from 2 to 16"):
        run(pipe, 20, motion=controls(context=17))
    with pytest.raises(ConflictError, match=r"motion_strength_frames = '0=1 12=0' cannot be used with frames = 11"):
        run(pipe, motion=controls(motion_strength_frames="0=1 12=0"))
    with pytest.raises(ConflictError, match="reuse_percent"):
        run(pipe, motion=controls(), options=Options(reuse_percent=80, reused="features"))
    assert not calls


def test_other_video_models_have_no_such_options():
    pipe = IVMixedPipeline(tiny.modelscope(), tiny.stable_diffusion())
    with pytest.raises(ConflictError, match=r"motion_strength = 0.5 cannot be used with this video model"):
        run(pipe, 3, motion=MotionControls(motion_strength=0.5))
    with pytest.raises(OptionError, match="prompt travel is for the prompt of an AnimateDiff clip alone"):
        run(pipe, 3, prompt="0: one\n2: two")


# --- prompt travel

@torch.no_grad()
def test_the_prompt_travels_for_both_models():
    pipe = IVMixedPipeline(tiny.animatediff(), tiny.stable_diffusion())
    seen: dict[str, list[torch.Tensor]] = {"video": [], "image": []}
    for name, unet in (("video", pipe.video.unet), ("image", pipe.image.unet)):
        unet.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen[name].append(kwargs["encoder_hidden_states"]),
            with_kwargs=True)
    text = "0: a\n8: b"
    run(pipe, 9, steps=2, motion=controls(context=9), prompt=text, options=Options(gamma_go=2, gamma_back=2))
    for pipeline, name in ((pipe.video, "video"), (pipe.image, "image")):
        ends = [pipeline.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in (", a, ", ", b, ")]
        expected = Travel.parse(text, 9).blend(torch.cat(ends), 9)
        whole = next(words for words in seen[name] if len(words) == 18)
        assert torch.equal(whole[9:], expected)
        assert torch.equal(whole[:9], whole[:1].expand(9, -1, -1))


def test_what_is_no_prompt_travel_is_refused_in_a_line():
    with pytest.raises(TravelError, match=r"line 2 .* gives frame 30 of a clip with frames 0 to 10"):
        run(IVMixedPipeline(tiny.animatediff()), prompt="0: a\n30: b")
    with pytest.raises(OptionError, match="need the WebUI"):
        run(IVMixedPipeline(tiny.animatediff()), prompt="0: a\n3: b AND c")


# --- motion strength

@torch.no_grad()
def test_strength_and_attention_scale_are_those_of_built_in_motion():
    ours, theirs = pair(16, per_frame=False, heads=2, groups=4)
    x = torch.randn(10, 16, 3, 2, generator=torch.Generator().manual_seed(0))
    motion = ActingMotion(MotionControls(motion_strength_frames="0=2 4=0", attention_scale=1.4), 5)
    with motion.acting_in(theirs):
        clips = x.unflatten(0, (2, 5)).transpose(0, 1)
        made = motion.in_windows(clips, lambda rows: [theirs(x, num_frames=5)])[0]
    strength = torch.tensor([2, 1.5, 1, 0.5, 0])
    torch.testing.assert_close(made, ours(x, 5, strength, 1.4), rtol=0, atol=2e-5 * made.abs().max().item())
    assert torch.equal(theirs(x, num_frames=5), pair(16, per_frame=False, heads=2, groups=4)[1](x, num_frames=5))


@torch.no_grad()
def test_strength_0_makes_the_stills_of_the_image_model():
    video, table = tiny.animatediff(), Schedule.linear()
    cond, uncond = words()
    motion = ActingMotion(controls(motion_strength=0), LONG)
    plan = plan_of(table, table, 3, PLAIN)
    rows = calls_of(video.unet)
    made = []
    with motion.acting_in(video.unet):
        for unet, more in ((video.unet, {"motion": motion}), (image_view(video.unet), {})):
            model = Denoiser(unet, table, "epsilon", uncond, cond, **more)
            model.expect(plan.moves[0], plan)
            made.append(model(noise(), torch.tensor(0.0), 7.5))
    torch.testing.assert_close(*made, rtol=0, atol=1e-5 * made[1].abs().max().item())
    assert rows == [8, 8, 6]  # no frame twice


def test_strength_over_the_steps():
    motion = controls(motion_strength="0=0 50=2", motion_strength_frames=(1, 0))
    assert motion.strengths(0, 3) == (0, 0, 0)
    assert motion.strengths(0.25, 3) == (1, 0.5, 0)
    assert motion.strengths(1, 3) == (2, 1, 0)
    assert MotionControls(motion_strength=(0, 0)).stills and not motion.stills


# --- noise

def test_a_clip_begins_with_freenoise_and_not_with_that_of_given_latents():
    pipe = IVMixedPipeline(tiny.animatediff())
    own = torch.randn(LONG, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    rows = order("freenoise", LONG, 4, 3, torch.Generator().manual_seed(3))
    free = run(pipe, seed=3, motion=controls(noise="freenoise")).latents
    assert torch.equal(free, run(pipe, latents=own[rows], motion=controls(noise="freenoise")).latents)
    assert (free - run(pipe, seed=3, motion=controls()).latents).abs().max() > 0.1


def test_free_init_samples_again_from_the_low_frequencies_of_the_clip():
    pipe = IVMixedPipeline(tiny.animatediff())
    calls = calls_of(pipe.video.unet)
    clip = run(pipe, 4, seed=3, motion=controls(free_init=2))
    assert len(calls) == clip.evaluations == 6 and clip.plan.evaluations == 3
    first = run(pipe, 4, seed=3)
    begin, fresh = (torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    abar = pipe.video_table.abars[-1]
    again = mixed(abar**0.5 * first.latents + (1 - abar) ** 0.5 * begin, fresh)
    torch.testing.assert_close(run(pipe, 4, latents=again).latents, clip.latents, rtol=0, atol=1e-5)


# --- distilled modules

@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_trailing_steps_are_those_of_diffusers_within_a_timestep(steps):
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear",
                                       timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    table = Schedule.linear()
    made = plan_of(table, table, steps, PLAIN, spacing="trailing")
    timesteps = [table.sigma_to_timestep(move.sigma_from) for move in made.moves]
    assert made.moves[-1].sigma_to == 0
    assert timesteps == pytest.approx(scheduler.timesteps.tolist(), abs=1)
