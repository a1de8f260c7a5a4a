"""`IVMixedPipeline` on tiny random diffusers models, against the formulas written out with diffusers' own parts."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel, UNetMotionModel

from ivmixed import OptionError, Options, Schedule
from ivmixed.released import released_plan
from ivmixed.standalone import IVMixedPipeline
from ivmixed.standalone.denoiser import Denoiser, image_view
from ivmixed.standalone.pipeline import plan_of

from . import tiny

PROMPT, NEGATIVE = "a red kite", "blurry"


def noise(frames: int = 4, side: int = 8) -> torch.Tensor:
    return torch.randn(frames, 4, side, side, generator=torch.Generator().manual_seed(5))


def released_loop(loop, video, image, steps, gamma, cfg, latents, resize=None):
    """The authors' AnimateDiff or ModelScope loop, written in variance-preserving latents (1, C, F, H, W).

    Source: the table of moves in the released code, d = 1000 // N, p = max(0, t - d), q = max(0, t - 2000 // N).
    """
    abar = video.scheduler.alphas_cumprod
    d = 1000 // steps

    def eps(model, x, label, scale):
        if model == "video":
            cond, uncond = StableDiffusionPipeline.encode_prompt(video, PROMPT, "cpu", 1, True, NEGATIVE)
            words = torch.cat([uncond, cond])
            if isinstance(video.unet, UNetMotionModel):
                words = words.repeat_interleave(x.shape[2], 0)
            out = video.unet(torch.cat([x, x]), label, encoder_hidden_states=words).sample
            low, high = out.chunk(2)
            return low + scale * (high - low)
        pipeline, network = image
        cond, uncond = pipeline.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
        frames = x[0].transpose(0, 1)
        low = network(frames, label, encoder_hidden_states=uncond.expand(len(frames), -1, -1)).sample
        high = network(frames, label, encoder_hidden_states=cond.expand(len(frames), -1, -1)).sample
        return (low + scale * (high - low)).transpose(0, 1)[None]

    def ddim(model, x, label, start, end, scale):
        shown = x
        if model == "image" and resize is not None:
            shown = torch.nn.functional.interpolate(x[0].transpose(0, 1), resize).transpose(0, 1)[None]
        e = eps(model, shown, label, scale)
        a, b = abar[max(0, start)], abar[max(0, end)]
        shown = b.sqrt() * (shown - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
        if model == "image" and resize is not None:
            shown = torch.nn.functional.interpolate(shown[0].transpose(0, 1), x.shape[-2:]).transpose(0, 1)[None]
        return shown

    x = latents.transpose(0, 1)[None]
    video.scheduler.set_timesteps(steps)
    for t in video.scheduler.timesteps.tolist():
        p, q = max(0, t - d), max(0, t - 2000 // steps)
        if loop == "animatediff":
            x = ddim("image", x, p, p, p - d, gamma)
            x = ddim("video", x, t, t, t - d, gamma)
        else:
            x = ddim("image", x, t, t, t - d, gamma)
            x = ddim("video", x, p, p, p - d, gamma)
        x = ddim("image", x, q, p - d, p, -gamma)
        x = ddim("video", x, p, t - d, t, -gamma)
        x = video.scheduler.step(eps("video", x, t, cfg), t, x).prev_sample  # diffusers' own ordinary step
    return x[0].transpose(0, 1)


@pytest.mark.parametrize("schedule", [tiny.LINEAR, tiny.SCALED])
@torch.no_grad()
def test_released_animatediff_loop(schedule):
    video = tiny.animatediff(schedule=schedule)
    pipe = IVMixedPipeline(video)
    expected = released_loop("animatediff", video, (video, image_view(video.unet)), 4, 4.0, 7.5, noise())
    clip = pipe(PROMPT, NEGATIVE, frames=4, steps=4, loop="animatediff", latents=noise(), progress=False)
    assert clip.plan.evaluations == 20
    torch.testing.assert_close(clip.latents, expected, rtol=1e-5, atol=1e-4)
    other = pipe(PROMPT, NEGATIVE, frames=4, steps=4, latents=noise(), progress=False)
    assert (other.latents - expected).abs().max() > 1e-2  # the sampler's own moves are others


@pytest.mark.parametrize("side", [8, 12])
@torch.no_grad()
def test_released_modelscope_loop_resizes_for_the_image_model(side):
    video, image = tiny.modelscope(), tiny.stable_diffusion()
    resize = None if side == 8 else (side, side)
    expected = released_loop("modelscope", video, (image, image.unet), 4, 4.0, 7.5, noise(), resize)
    clip = IVMixedPipeline(video, image)(
        PROMPT, NEGATIVE, frames=4, steps=4, loop="modelscope", latents=noise(), progress=False,
        options=Options(image_size=None if resize is None else (2 * side, 2 * side), image_resize="nearest"))
    torch.testing.assert_close(clip.latents, expected, rtol=1e-5, atol=1e-4)


def test_modelscope_needs_an_image_model():
    with pytest.raises(ValueError, match="no image model"):
        IVMixedPipeline(tiny.modelscope())


@torch.no_grad()
def test_image_view_is_the_unet_without_motion_and_shares_its_layers():
    torch.manual_seed(3)
    plain = tiny.unet()
    motion = UNetMotionModel.from_unet2d(plain, tiny.adapter()).eval()
    view = image_view(motion)
    x, t, words = torch.randn(3, 4, 8, 8), torch.tensor(321.5), torch.randn(3, 12, 16)
    assert isinstance(view, UNet2DConditionModel)
    assert torch.equal(view(x, t, words).sample, plain(x, t, words).sample)
    assert all(parameter.device.type != "meta" for parameter in view.parameters())
    motion.conv_out.weight.mul_(2)  # a change of the video model's layers ...
    assert not torch.equal(view(x, t, words).sample, plain(x, t, words).sample)  # ... holds for the view


@pytest.mark.parametrize("finish", [0, 2, 4])
@torch.no_grad()
def test_empty_interval_is_the_video_model_by_euler_and_then_the_image_model(finish):
    """Of four steps ``finish`` are the plain UNet's, frame by frame, at the timestep of its own table."""
    video = tiny.animatediff()
    pipe = IVMixedPipeline(video)
    options = Options(interval=(0, 0), finish_percent=25 * finish, finish_by="steps")
    clip = pipe(PROMPT, NEGATIVE, frames=3, steps=4, options=options, latents=noise(3), progress=False)
    abar = video.scheduler.alphas_cumprod
    sigmas = [float(((1 - abar[t]) / abar[t]).sqrt()) for t in (999, 666, 333, 0)] + [0.0]
    cond, uncond = video.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    words = torch.cat([uncond, cond]).repeat_interleave(3, 0)
    x = noise(3).transpose(0, 1)[None] * (1 + sigmas[0] ** 2) ** 0.5
    plain, own = image_view(video.unet), Schedule.scaled_linear()
    for k, (t, sigma, following) in enumerate(zip((999, 666, 333, 0), sigmas, sigmas[1:])):
        level = sigma if k < 4 - finish else min(sigma, own.sigma_max)  # it has never seen more noise than that
        seen = torch.cat([x, x]) / (1 + sigma**2) ** 0.5
        if k < 4 - finish:
            low, high = video.unet(seen, t, words).sample.chunk(2)
        else:
            frames = seen.transpose(1, 2).flatten(0, 1)
            answer = plain(frames, torch.tensor(own.sigma_to_timestep(level)), words).sample
            low, high = answer.unflatten(0, (2, 3)).transpose(1, 2).chunk(2)
        x = x + (following - sigma) * (low + 7.5 * (high - low))
    torch.testing.assert_close(clip.latents, x[0].transpose(0, 1), rtol=1e-5, atol=1e-4)
    assert (clip.plan.count("video"), clip.plan.count("image")) == (4 - finish, finish)


def test_same_seed_same_pixels_and_chunks_do_not_matter():
    pipe = IVMixedPipeline(tiny.animatediff())
    settings = {"frames": 4, "steps": 4, "width": 16, "height": 16, "progress": False}
    first, again = pipe(PROMPT, seed=3, **settings), pipe(PROMPT, seed=3, **settings)
    chunked, other = pipe(PROMPT, seed=3, image_chunk=3, **settings), pipe(PROMPT, seed=4, **settings)
    assert (first.frames == again.frames).all()
    assert first.frames.shape == (4, 16, 16, 3) and first.frames.dtype == np.uint8
    assert (first.latents - chunked.latents).abs().max() < 1e-5 * first.latents.abs().max()
    assert (first.latents - other.latents).abs().max() > 0.1


@pytest.mark.parametrize("sees", ["neighbours", "first"])
def test_only_the_image_model_sees_other_frames(sees):
    """In a clip that the image model ends; without a step of it there is nothing to see."""
    pipe = IVMixedPipeline(tiny.animatediff())

    def latents(**options):
        return pipe(PROMPT, frames=4, steps=4, width=16, height=16, progress=False,
                    options=Options(interval=(0, 0), **options)).latents

    own, seen = (latents(finish_percent=50, image_attention=value) for value in ("own", sees))
    assert (own - seen).abs().max() > 1e-5
    assert torch.equal(latents(image_attention=sees), latents())
    assert torch.equal(latents(finish_percent=50), own)


def test_frames_are_what_diffusers_decodes():
    video = tiny.animatediff()
    clip = IVMixedPipeline(video)(PROMPT, frames=3, steps=2, progress=False)
    with torch.no_grad():
        decoded = video.decode_latents(clip.latents.transpose(0, 1)[None])[0].permute(1, 2, 3, 0)
    assert ((decoded.clamp(-1, 1) + 1) * 127.5 - torch.tensor(clip.frames)).abs().max() <= 0.51


def test_callback_sees_every_step_and_may_change_the_latents():
    pipe = IVMixedPipeline(tiny.animatediff())
    seen = []

    def watch(pipeline, step, timestep, given):
        seen.append((step, round(timestep), given["latents"].shape))

    settings = {"frames": 2, "steps": 3, "latents": noise(2), "progress": False}
    plain = pipe(PROMPT, callback_on_step_end=watch, **settings)
    assert seen == [(k, t, (2, 4, 8, 8)) for k, t in enumerate((999, 500, 0))]
    ended = pipe(PROMPT, callback_on_step_end=lambda p, k, t, given: {"latents": given["latents"] * 0}, **settings)
    assert ended.latents.abs().max() == 0 and plain.latents.abs().max() > 0


def test_guidance_one_and_zero_take_one_network_pass():
    video = tiny.animatediff()
    batches = []
    video.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    pipe = IVMixedPipeline(video)
    pipe(PROMPT, frames=2, steps=2, options=Options(interval=(0, 0)), cfg_scale=1.0, progress=False)
    assert batches == [1, 1]
    batches.clear()
    pipe(PROMPT, frames=2, steps=2, options=Options(interval=(0, 0)), cfg_scale=7.5, progress=False)
    assert batches == [2, 2]


def test_v_prediction_is_the_same_prediction_in_other_words():
    """A network that predicts noise e is one that predicts v, by v = sqrt(abar) e - sqrt(1 - abar) x0."""
    video = tiny.animatediff()
    pipe = IVMixedPipeline(video)
    settings = {"frames": 2, "steps": 3, "latents": noise(2), "options": Options(interval=(0, 0)), "cfg_scale": 3.0,
                "progress": False}
    expected = pipe(PROMPT, **settings).latents
    table = pipe.video_table

    def to_v(module, args, kwargs, output):
        a = table.timestep_to_abar(float(args[1]))
        clean = (args[0] - (1 - a) ** 0.5 * output[0]) / a**0.5
        return (a**0.5 * output[0] - (1 - a) ** 0.5 * clean,)

    video.unet.register_forward_hook(to_v, with_kwargs=True)
    assert (pipe(PROMPT, **settings).latents - expected).abs().max() > 0.1
    video.scheduler.register_to_config(prediction_type="v_prediction")
    assert (pipe(PROMPT, **settings).latents - expected).abs().max() < 1e-3


@pytest.mark.parametrize("separate", [True, False])
def test_the_image_model_has_words_of_its_own(separate):
    """What it is told is what its text encoder makes of them; the video model hears nothing of it."""
    video = tiny.animatediff()
    pipe = IVMixedPipeline(video, tiny.stable_diffusion() if separate else None)
    settings = {"frames": 2, "steps": 3, "latents": noise(2), "progress": False}
    heard = {"video": [], "image": []}
    encoder = pipe.image or video
    original = Denoiser._network

    def listening(self, sample, context, *more):
        heard["video" if self.unet is video.unet else "image"].append(context[::len(context) // 2])
        return original(self, sample, context, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoiser, "_network", listening)
        own = pipe(PROMPT, NEGATIVE, **settings, options=Options(
            image_prompt="a sharp one", image_negative_prompt="noise")).latents
    for name, pipeline, words in (("video", video, (PROMPT, NEGATIVE)), ("image", encoder, ("a sharp one", "noise"))):
        cond, uncond = pipeline.encode_prompt(words[0], torch.device("cpu"), 1, True, words[1])
        expected = torch.cat([uncond, cond])
        assert heard[name] and all(torch.equal(context, expected) for context in heard[name])
    same = pipe(PROMPT, NEGATIVE, **settings, options=Options(
        image_prompt=PROMPT, image_negative_prompt=NEGATIVE)).latents
    assert torch.equal(same, pipe(PROMPT, NEGATIVE, **settings).latents) and (own - same).abs().max() > 1e-3


KINDS = {"epsilon": {}, "lcm": {"solver": "lcm"}, "v": {"prediction_type": "v_prediction"},
         "v, zero SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}}


def of_kind(kind, dtype):
    """A pipeline in a dtype, and the solver that suits it."""
    scheduler = dict(KINDS[kind])
    solver = scheduler.pop("solver", None)
    video = tiny.animatediff()
    video.scheduler = video.scheduler.from_config(video.scheduler.config, **scheduler)
    return IVMixedPipeline(video.to(dtype)), solver


HALVES = [(torch.float16, 0.03), (torch.bfloat16, 0.2)]
"""And how far a clip may be from that in float32, in units of its size: 0.002 to 0.02 and 0.015 to 0.11 were seen."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_in_half_precision_is_near_the_one_in_full(kind):
    def clip(dtype):
        pipe, solver = of_kind(kind, dtype)
        return pipe(PROMPT, NEGATIVE, frames=3, steps=4, latents=noise(3), solver=solver, cfg_scale=3.0,
                    options=Options(gamma_go=2, gamma_back=2), progress=False)

    exact = clip(torch.float32).latents
    for dtype, bound in HALVES:
        half = clip(dtype)
        assert half.latents.isfinite().all() and half.latents.dtype == torch.float32 and half.plan.count("image") > 0
        assert 0 < (half.latents - exact).norm() < bound * exact.norm(), dtype


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in HALVES])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_empty_interval_in_half_precision_is_the_solvers_own_step(kind, dtype):
    """The network in half, the step in full: Euler's, or for distilled models the network's answer and fresh noise."""
    pipe, solver = of_kind(kind, dtype)
    video, table = pipe.video, pipe.video_table
    options = Options(interval=(0, 0))
    clip = pipe(PROMPT, NEGATIVE, frames=2, steps=3, latents=noise(2), options=options, solver=solver, cfg_scale=3.0,
                progress=False)
    levels = [move.sigma_from for move in pipe.plan(3, options, solver=solver).moves]
    cond, uncond = video.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    words = torch.cat([uncond, cond]).repeat_interleave(2, 0)
    x = noise(2).transpose(0, 1)[None] * table.input_norm(levels[0])
    generator = torch.Generator().manual_seed(1)
    for sigma, following in zip(levels, [*levels[1:], 0.0]):
        seen = (torch.cat([x, x]) / table.input_norm(sigma)).to(dtype)
        low, high = video.unet(seen, torch.tensor(table.sigma_to_timestep(sigma)), words).sample.float().chunk(2)
        output = torch.lerp(low, high, 3.0)
        denoised = x - sigma * output if kind in ("epsilon", "lcm") else (
            x / (1 + sigma**2) - output * sigma / (1 + sigma**2) ** 0.5)
        if solver == "lcm":
            fresh = torch.randn(2, 4, 8, 8, generator=generator) if following else torch.zeros(2, 4, 8, 8)
            x = denoised + following * fresh.transpose(0, 1)[None]
        else:
            x = x + (x - denoised) / sigma * (following - sigma)
    torch.testing.assert_close(clip.latents, x[0].transpose(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, *(dtype for dtype, _ in HALVES)])
@pytest.mark.parametrize("chunk", [None, 2])
@torch.no_grad()
def test_an_image_evaluation_is_the_plain_unets_to_the_bit(dtype, chunk):
    torch.manual_seed(3)
    plain = tiny.unet()
    motion = UNetMotionModel.from_unet2d(plain, tiny.adapter()).eval()
    table, sigma = Schedule.scaled_linear(), 3.0
    cond, uncond = torch.randn(2, 1, 12, 16).to(dtype)
    denoiser = Denoiser(image_view(motion.to(dtype)), table, "epsilon", uncond, cond, chunk)
    denoiser._level = sigma
    x = noise(4)
    rows = (x / table.input_norm(sigma)).to(dtype)
    outputs = []
    for part in rows.split(chunk or 4):
        words = torch.cat([text.expand(len(part), -1, -1) for text in (uncond, cond)])
        t = torch.tensor(table.sigma_to_timestep(sigma))
        outputs.append(plain.to(dtype)(torch.cat([part, part]), t, words).sample.float().chunk(2))
    low, high = (torch.cat(whole) for whole in zip(*outputs))
    assert torch.equal(denoiser(x, None, 7.5), x - torch.lerp(low, high, 7.5) * sigma)


def test_the_steps_of_distilled_models_end_one_before_the_first_timestep():
    table = Schedule.linear()
    plan = plan_of(table, Schedule.scaled_linear(), 4, Options(), solver="lcm")
    ordinary = [move for move in plan.moves if move.kind == "ordinary"]
    timesteps = [table.sigma_to_timestep(move.sigma_from) for move in ordinary]
    assert timesteps == pytest.approx([999, 749.25, 499.5, 249.75])
    assert ordinary[-1].sigma_to == 0 and plan.active_steps == 3


@torch.no_grad()
def test_v_prediction_on_a_table_that_ends_in_nothing_but_noise():
    """Zero terminal SNR, where a prediction of noise says nothing: the first step by hand, in VP coordinates."""
    video = tiny.animatediff()
    video.scheduler = video.scheduler.from_config(
        video.scheduler.config, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    pipe = IVMixedPipeline(video)
    table, start = pipe.video_table, noise(2)
    assert table.sigma_max == pytest.approx(4096, rel=1e-4)
    after = []
    clip = pipe(PROMPT, frames=2, steps=4, latents=start, options=Options(interval=(25, 100)), cfg_scale=1.0,
                callback_on_step_end=lambda pipe, step, t, given: after.append(given["latents"]), progress=False)
    cond, _ = video.encode_prompt(PROMPT, torch.device("cpu"), 1, True, "")
    v = video.unet(start.transpose(0, 1)[None], torch.tensor(999.0), encoder_hidden_states=cond.repeat(2, 1, 1))[0]
    a = table.timestep_to_abar(666.0)
    expected = -(a**0.5) * v[0].transpose(0, 1) + (1 - a) ** 0.5 * start
    torch.testing.assert_close(after[0], expected, rtol=2e-3, atol=2e-3)
    assert clip.plan.count("image") > 0 and clip.latents.isfinite().all()


@pytest.mark.parametrize("wrong, words", [
    ({"frames": 1025}, "frames = 1025"), ({"frames": 0}, "frames = 0"), ({"width": 15}, "width = 15"),
    ({"loop": "vc"}, "loop = 'vc'"),
    ({"loop": "animatediff", "options": Options(gamma_go=3)}, "equal gammas"),
    ({"loop": "animatediff", "options": Options(z_percent=66.7)}, "z_percent = 66.7"),
    ({"loop": "animatediff", "options": Options(gamma_go="0=6 9=2", gamma_back="0=6 9=2")}, "has no keyframes"),
    ({"loop": "animatediff", "options": Options(finish_percent=20)}, "finish_percent = 20.0 cannot be used with loop"),
    ({"width": 16, "height": 16, "options": Options(finish_percent=100, image_size=(8, 8))}, "image_size = '4x4'"),
    ({"image_chunk": 1, "options": Options(image_attention="first")}, "'first' cannot be used with 1 of 2 frames"),
])
def test_refused_before_the_first_evaluation(wrong, words):
    video = tiny.animatediff()
    calls = []
    video.unet.register_forward_pre_hook(lambda module, args: calls.append(1))
    with pytest.raises(OptionError, match=words):
        IVMixedPipeline(video)(PROMPT, progress=False, **{"frames": 2, "steps": 2, **wrong})
    assert calls == []


def test_released_options_become_the_released_plan():
    pipe = IVMixedPipeline(tiny.animatediff())
    got = pipe.plan(9, Options(z_percent=33.3, image_resize="nearest"), loop="videocrafter", cfg_scale=9.0)
    assert got == released_plan("videocrafter", 9, pipe.video_table, cfg_scale=9.0, interval=(0, 8), zz=3)


@pytest.mark.parametrize("options", [
    {"reuse_percent": 50}, {"reuse_percent": 75}, {"reuse_percent": 50, "gamma_go": 1, "gamma_back": 1},
])
def test_a_reused_prediction_costs_no_network(options, monkeypatch):
    """The clip is the one that asking the networks anew about the same latents makes; with gamma 1, where a go move
    needs cond alone, what the back move lacks is asked."""
    video = tiny.animatediff()
    pipe = IVMixedPipeline(video)
    calls = []
    network = Denoiser._network
    monkeypatch.setattr(Denoiser, "_network", lambda self, *args: calls.append(self) or network(self, *args))

    def make():
        calls.clear()
        return pipe(PROMPT, NEGATIVE, frames=3, steps=5, options=Options(**options), latents=noise(3), progress=False)

    clip = make()
    again = 2 * 3 if options.get("gamma_go") else 0  # of the three steps with four moves, image and video each
    assert len(calls) == clip.plan.evaluations + again
    monkeypatch.setattr(Denoiser, "_again", property(lambda self: False, lambda self, again: None), raising=False)
    torch.testing.assert_close(make().latents, clip.latents, rtol=1e-5, atol=1e-3)  # of a size of 60
    assert len(calls) == len(clip.plan.moves) > clip.plan.evaluations


FEATURES = Options(reuse_percent=65, reused="features")


@pytest.mark.parametrize("make, chunk", [
    (tiny.animatediff, 2), (lambda: (tiny.modelscope(), tiny.stable_diffusion()), None)])
def test_deep_features_are_each_models_own(make, chunk):
    """A layer deep inside runs in whole evaluations alone; what the clip becomes is near the exact one, not it."""
    pipelines = make()
    pipe = IVMixedPipeline(*(pipelines if isinstance(pipelines, tuple) else (pipelines,)))
    unets = {id(p.unet): p.unet for p in (pipe.video, pipe.image or pipe.video)}
    calls = []
    for unet in unets.values():
        unet.mid_block.resnets[0].register_forward_hook(lambda *call: calls.append(1))

    def clip(options):
        calls.clear()
        return pipe(PROMPT, NEGATIVE, frames=3, steps=5, options=options, latents=noise(3), image_chunk=chunk,
                    progress=False)

    before = clip(Options())
    fast = clip(FEATURES)
    times = {"video": 1, "image": 1 if chunk is None else 2}
    whole = [move for move in fast.plan.moves if not move.reuse]
    assert fast.plan.evaluations == before.plan.evaluations > len(whole)
    assert len(calls) == sum(times[move.model] for move in whole)
    assert 1e-3 < (fast.latents - before.latents).norm() / before.latents.norm() < 0.3
    assert torch.equal(clip(FEATURES).latents, fast.latents)
    assert torch.equal(clip(Options()).latents, before.latents)
