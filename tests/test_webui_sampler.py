"""The sampler in AUTOMATIC1111, against a double of the host (tests/host)."""
import importlib
import logging
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fastapi import HTTPException

import ivmixed
from ivmixed import Options, Schedule, make_plan, sample_iv_mixed

from .host import NAME, NAMES, Log, loaded

SMALL = {"frames": 5, "context": 2, "steps": 3}
"""A clip with several context windows, of which the last image chunk is not full."""


@pytest.fixture
def host():
    with loaded() as host:
        yield host


def plan_of(host, p, options=None, **more):
    """The plan that a request must have run, from the tables as the host had them."""
    video = Schedule.from_sigmas(p.sampler.model_wrap.sigmas.tolist())
    image = Schedule.from_sigmas(host.denoiser().sigmas.tolist())
    return make_plan(options or Options(), p.sampler.get_sigmas(p, p.steps).tolist(), video, image, **more)


def moves_and_evaluations(host, p, options=None):
    plan = plan_of(host, p, options)
    assert len(host.evaluations) == plan.evaluations
    return list(zip(plan.moves, host.evaluations))


def lines(host, words):
    return [line for line in host.log.lines if words in line]


# --- registration

def test_listed_once_and_in_place():
    with loaded() as host:
        listed = host.sd_samplers.all_samplers  # as other modules of the host hold it
        for _ in range(2):
            host.load_scripts()
        assert host.sd_samplers.all_samplers is host.sd_samplers.samplers is listed
        assert host.sd_samplers.visible_sampler_names() == ["DPM++ 2M", "Euler", *NAMES]
        assert host.sd_samplers.samplers_for_img2img is listed
        assert listed[2:] == [host.sd_samplers.all_samplers_map[name] for name in NAMES]
        assert host.sd_samplers.samplers_map["iv-mixed"] == host.sd_samplers.samplers_map["iv_mixed"] == NAME
        assert host.sd_samplers.samplers_map["ivmixed"] == NAME
        assert [script.title() for script in host.runner.alwayson_scripts].count(NAME) == 1
        assert listed[-1].total_steps(20) == 20
        assert [host.sd_samplers.get_sampler_and_scheduler(name, None)[0] for name in NAMES] == NAMES
        assert [data.options for data in listed[2:]] == [{}, {"scheduler": "karras"}, {}], "as the host's own have"


def test_a_remembered_miss_is_forgotten(host):
    samplers = host.sd_samplers
    del samplers.all_samplers[2:]
    samplers.all_samplers_map.pop(NAME)
    samplers.get_sampler_and_scheduler.cache_clear()
    assert samplers.get_sampler_and_scheduler(NAME, "Karras")[0] == "DPM++ 2M"
    host.load_scripts()
    assert samplers.get_sampler_and_scheduler(NAME, "Karras") == (NAME, "Karras")
    assert samplers.get_sampler_and_scheduler(f"{NAME} Karras", None) == (NAME, "Karras")


@pytest.mark.parametrize("name, solver", [(NAMES[1], "dpmpp_2m"), (NAMES[2], "dpmpp_2m_sde")])
def test_each_sampler_takes_the_ordinary_step_in_its_way(host, name, solver):
    """The core alone, given the same answers of the host's denoiser, asks about the same latents."""
    options = Options(gamma_go=2, interval=(0, 60))
    p = host.clip(name, options={"gamma_go": 2, "interval": [0, 60]}, cfg_scale=5.5, **{**SMALL, "steps": 4})
    host.run(p)
    plan, sigmas = plan_of(host, p, options, solver=solver), p.sampler.get_sigmas(p, 4)
    assert p.extra_generation_params[NAME] == f"{plan.evaluations} evaluations"

    def worst(plan):
        """The largest difference between what the host's denoiser was asked and what the core asks."""
        evaluations, noise, differences = iter(host.evaluations), p.generators(5), []

        def denoiser(x, sigma, cond_scale):
            evaluation = next(evaluations)
            cond, uncond = evaluation.out.chunk(2)
            differences.append((x - evaluation.x[:len(x)]).abs().max().item())
            return uncond + (cond - uncond) * cond_scale

        sample_iv_mixed(denoiser, noise.next() * sigmas[0], sigmas, {"cond_scale": 5.5}, disable=True, plan=plan,
                        noise_sampler=lambda *levels: noise.next())
        return max(differences)

    assert worst(plan) < 1e-3
    assert worst(replace(plan, solver="euler")) > 0.1


def test_a_user_sees_each_line_once(capsys):
    """The host's own handler is the root logger's."""
    theirs = Log()
    logging.getLogger().addHandler(theirs)
    with loaded() as host:
        importlib.reload(sys.modules["ivmixed.webui"])
        host.run(host.clip(**SMALL))
    logging.getLogger().removeHandler(theirs)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[IV-mixed] ")]
    assert said == [f"[IV-mixed] {line}" for line in host.log.lines]
    assert len(said) == 1
    assert theirs.lines == []


# --- which network answers, and with which rows

def assert_image_evaluation(host, move, evaluation, frames, context):
    """The plain UNet answered, on the checkpoint's table, for every row once, in chunks of at most a window."""
    denoiser, calls = host.denoiser(), evaluation.calls
    level = torch.full_like(evaluation.sigma, move.sigma)
    assert torch.equal(evaluation.sigma, level)
    assert torch.equal(torch.cat([call.x for call in calls]), host.scaled(evaluation.x, level))
    assert torch.equal(torch.cat([call.t for call in calls]), denoiser.sigma_to_t(level))
    both = 2 if host.shared.opts.batch_cond_uncond else 1
    assert [len(call.x) for call in calls] == chunks(frames * both, context * both) * (2 // both)
    for call in calls:
        assert torch.equal(call.out, host.unet(call.x, timesteps=call.t, context=call.context))
    answer = torch.cat([call.out for call in calls])
    assert torch.equal(evaluation.out, host.denoiser(lambda x, t, cond: answer)(evaluation.x, level, cond={}))


@pytest.mark.parametrize("together", [True, False])
def test_the_image_model_may_take_fewer_frames_at_a_time(host, together):
    host.shared.opts.batch_cond_uncond = together
    host.shared.opts.set("ivmixed_chunk", 2)
    p = host.clip(frames=5, context=4, steps=3)
    host.run(p)
    for move, evaluation in moves_and_evaluations(host, p):
        if move.model == "image":
            assert_image_evaluation(host, move, evaluation, 5, 2)
        else:
            assert_video_evaluation(host, move, evaluation, 5, 4)


def chunks(rows, size):
    return [size] * (rows // size) + [rows % size] * (rows % size > 0)


def assert_video_evaluation(host, move, evaluation, frames, context):
    """AnimateDiff's windows of that step, with motion, on its own table."""
    windows = list(host.windows(move.step, frames, context, context // 4))
    rows = [window + [frame + frames for frame in window] for window in windows]
    if not host.shared.opts.batch_cond_uncond:
        # the host asks for cond and uncond one after the other
        rows = windows + [[frame + frames for frame in window] for window in windows]
    assert len(evaluation.calls) == len(rows)
    scaled = host.scaled(evaluation.x, evaluation.sigma)
    linear = Schedule.linear()
    for call, window in zip(evaluation.calls, rows):
        assert torch.equal(call.x, scaled[window])
        assert call.t.tolist() == pytest.approx([linear.sigma_to_timestep(move.sigma)] * len(window), abs=0.01)
        assert not torch.allclose(call.out, host.unet(call.x, timesteps=call.t, context=call.context))


def assert_every_evaluation(host, p, frames, context, options=None):
    models = set()
    for move, evaluation in moves_and_evaluations(host, p, options):
        check = assert_image_evaluation if move.model == "image" else assert_video_evaluation
        check(host, move, evaluation, frames, context)
        assert evaluation.step == move.step
        models.add(move.model)
    return models


@pytest.mark.parametrize("parameterization, version, batch_cond_uncond", [
    ("eps", "v1", True), ("eps", "v2", False), ("eps", "v3", True), ("v", "v3", False)])
def test_every_evaluation_of_a_clip(parameterization, version, batch_cond_uncond):
    with loaded(parameterization) as host:
        host.shared.opts.batch_cond_uncond = batch_cond_uncond
        p = host.clip(version=version, frames=32, context=16, steps=3)
        host.run(p)
        assert assert_every_evaluation(host, p, 32, 16) == {"image", "video"}
        assert p.extra_generation_params[NAME] == f"{len(host.evaluations)} evaluations"


@pytest.mark.parametrize("options, models", [
    ({"form": "II-II"}, {"image", "video"}),
    ({"form": "VV-VV"}, {"video"}),
    ({"z_percent": 50}, {"image", "video"}),
    ({"schedule_match": "timestep"}, {"image", "video"}),
    ({"above_sigma_max": "skip"}, {"image", "video"}),
    ({"interval": [30, 100], "gamma_go": [6, 2], "gamma_image_back": 3}, {"image", "video"}),
    ({"finish_percent": 67, "finish_by": "steps"}, {"image", "video"}),
    ({"finish_percent": 20, "interval": [0, 0]}, {"image", "video"}),
    ({"finish_percent": 100, "interval": [0, 0]}, {"image"}),
])
def test_options_act_on_a_clip(host, options, models):
    # the levels of another schedule lie between those of the tables
    fields = {**SMALL, "scheduler": "Karras" if options.keys() & {"schedule_match", "above_sigma_max"} else "Automatic"}
    p = host.clip(options=options, **fields)
    changed = host.run(p)
    assert assert_every_evaluation(host, p, 5, 2, Options(**options)) == models
    assert not torch.equal(changed, host.run(host.clip(**fields)))


def test_a_clip_of_one_window(host):
    p = host.clip(frames=4, context=4, steps=3)
    host.run(p)
    assert_every_evaluation(host, p, 4, 4)
    assert {len(evaluation.calls) for evaluation in host.evaluations} == {1}


def test_guidance_is_signed(host):
    """The latent that each evaluation sees follows from the one before by the plan's guidance."""
    options = {"gamma_go": 2, "gamma_back": 3}
    p = host.clip(options=options, cfg_scale=5.5, **SMALL)
    result = host.run(p)
    pairs = moves_and_evaluations(host, p, Options(**options))
    latent = p.noise(5) * pairs[0][0].sigma_from
    for move, evaluation in pairs:
        # above its table the image model is asked at its largest level, for the same latent in its variance
        seen = latent * ((1 + move.sigma**2) / (1 + move.sigma_from**2)) ** 0.5
        torch.testing.assert_close(evaluation.x, torch.cat([seen, seen]), rtol=1e-4, atol=1e-4)
        cond, uncond = evaluation.out[:5], evaluation.out[5:]
        scale = {"go": 2, "back": -3, "ordinary": 5.5}[move.kind]
        eps = (evaluation.x[:5] - (uncond + (cond - uncond) * scale)) / move.sigma
        latent = latent + eps * (move.sigma_to - move.sigma_from)
    torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("setting, value", [
    ("use_downcasted_alpha_bar", True),
    ("sd_noise_schedule", "Zero Terminal SNR"),
    ("enable_quantization", True),
])
def test_the_hosts_settings_for_noise_tables_hold_for_both_models(host, setting, value):
    setattr(host.shared.opts, setting, value)
    p = host.clip(frames=4, context=4, steps=3)
    host.run(p)
    host.apply_alpha_schedule_override(host.model)
    for move, evaluation in moves_and_evaluations(host, p):
        if move.model == "image":
            assert_image_evaluation(host, move, evaluation, 4, 4)


HALF, MOST = {"reuse_percent": 50}, {"reuse_percent": 75}


@pytest.mark.parametrize("options, batch_cond_uncond, frames, context", [
    (HALF, True, 4, 4), (HALF, False, 5, 2), (MOST, False, 4, 4), (MOST, True, 5, 2),
    ({**HALF, "form": "II-II"}, True, 5, 2), ({**HALF, "form": "II-II"}, False, 4, 4)])
def test_a_reused_prediction_is_that_of_the_latest_evaluation(host, options, batch_cond_uncond, frames, context):
    """No network is called for it, and the latents that follow are those of its rows at the new guidance."""
    host.shared.opts.batch_cond_uncond = batch_cond_uncond
    host.shared.opts.s_min_uncond_all = True
    fields = {"frames": frames, "context": context, "steps": 5, "cfg_scale": 5.5, "s_min_uncond": 4.0}
    p = host.clip(options={"gamma_go": 2, "gamma_back": 3, **options}, **fields)
    result = host.run(p)
    plan = plan_of(host, p, Options(gamma_go=2, gamma_back=3, **options))
    assert len(host.evaluations) == len(plan.moves) > plan.evaluations
    assert p.extra_generation_params[NAME] == f"{plan.evaluations} evaluations"
    assert "NGMS" not in p.extra_generation_params
    latent, latest = p.noise(frames) * plan.moves[0].sigma_from, {}
    for move, evaluation in zip(plan.moves, host.evaluations):
        if move.reuse:
            before, sigma = latest[move.model]
            assert evaluation.calls == []
            assert torch.equal(evaluation.out, before.out) and torch.equal(evaluation.x, before.x)
        else:
            assert len(evaluation.calls) > 0
            latest[move.model] = evaluation, move.sigma
            sigma = move.sigma
            seen = latent * ((1 + sigma**2) / (1 + move.sigma_from**2)) ** 0.5
            torch.testing.assert_close(evaluation.x, torch.cat([seen, seen]), rtol=1e-4, atol=1e-4)
        cond, uncond = evaluation.out[:frames], evaluation.out[frames:]
        scale = {"go": 2, "back": -3, "ordinary": 5.5}[move.kind]
        eps = (evaluation.x[:frames] - (uncond + (cond - uncond) * scale)) / sigma
        latent = latent + eps * (move.sigma_to - move.sigma_from)
    torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)
    assert not p.sampler.model_wrap._forward_hooks


@pytest.mark.parametrize("batch_cond_uncond", [True, False])
@pytest.mark.parametrize("frames, context", [(4, 4), (5, 2)])
def test_rescaled_moves_ask_no_network_for_the_strength(host, batch_cond_uncond, frames, context):
    """The prediction at guidance 1 is answered from memory, and the latents that follow are the rescaled ones."""
    host.shared.opts.batch_cond_uncond = batch_cond_uncond
    p = host.clip(options={"gamma_go": 2, "gamma_back": 3, "guidance_rescale": 0.7}, frames=frames, context=context,
                  steps=4, cfg_scale=5.5)
    result = host.run(p)
    plan = plan_of(host, p, Options(gamma_go=2, gamma_back=3, guidance_rescale=0.7))
    assert p.extra_generation_params[NAME] == f"{plan.evaluations} evaluations"
    latent, evaluations = p.noise(frames) * plan.moves[0].sigma_from, iter(host.evaluations)
    for move in plan.moves:
        evaluation = next(evaluations)
        assert evaluation.calls
        scale = {"go": 2, "back": -3, "ordinary": 5.5}[move.kind]
        cond, uncond = evaluation.out[:frames], evaluation.out[frames:]
        x = evaluation.x[:frames]
        seen = latent * ((1 + move.sigma**2) / (1 + move.sigma_from**2)) ** 0.5
        torch.testing.assert_close(x, seen, rtol=1e-4, atol=1e-4)
        eps = (x - (uncond + (cond - uncond) * scale)) / move.sigma
        if move.kind != "ordinary":
            question = next(evaluations)
            assert question.calls == [] and torch.equal(question.out, evaluation.out)
            eps = eps * (0.3 + 0.7 * ((x - cond) / move.sigma).std() / eps.std())
        latent = latent + eps * (move.sigma_to - move.sigma_from)
    torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)
    assert next(evaluations, None) is None


@pytest.mark.parametrize("options, batch_cond_uncond, frames, context", [
    ({}, True, 4, 4), ({}, False, 5, 2), (MOST, True, 4, 4), (MOST, False, 4, 4), ({"form": "II-II"}, True, 5, 2),
    ({"form": "II-II"}, False, 4, 4), ({"gamma_go": 1}, False, 5, 2), ({"gamma_go": 1}, True, 4, 4)])
def test_deep_features_are_those_of_the_latest_whole_evaluation(host, options, batch_cond_uncond, frames, context):
    """By hand: the first block of the UNet, and the last on the features that the whole evaluation gave there."""
    options = {**HALF, "reused": "features", **options}
    host.shared.opts.batch_cond_uncond = batch_cond_uncond
    unet = host.model.model.diffusion_model
    last = unet.output_blocks[-1]
    read, hook = [], last.register_forward_pre_hook(lambda module, args: read.append(args))
    p = host.clip(options=options, frames=frames, context=context, steps=5)
    host.run(p)
    hook.remove()
    plan = plan_of(host, p, Options(**options))
    assert p.extra_generation_params[NAME] == f"{plan.evaluations} evaluations"
    read, latest, shallow = iter(read), {}, 0
    for move, evaluation in zip(plan.moves, host.evaluations, strict=True):
        joined = [next(read) for _ in evaluation.calls]
        deep = [rows[:, :4] for rows, *_ in joined]
        if move.reuse:
            shallow += 1
            assert all(torch.equal(got, kept) for got, kept in zip(deep, latest[move.model], strict=True))
        else:
            assert not any(torch.equal(got, kept) for got, kept in zip(deep, latest.get(move.model, deep[1:])))
            latest[move.model] = deep
        for call, (rows, emb, context_of_call) in zip(evaluation.calls, joined):
            skip = unet.input_blocks[0][:2](call.x, emb, context_of_call)
            if move.model == "image":
                assert torch.equal(rows[:, 4:], skip)
                assert torch.equal(call.out, torch.tanh(unet.out(last[:2](rows, emb, context_of_call)) * 0.5))
            else:
                assert not torch.allclose(rows[:, 4:], skip)  # motion is in both blocks
    assert 0 < shallow < plan.evaluations
    assert not any("forward" in vars(module) for module in unet.modules())


@pytest.mark.parametrize("image_size, side", [([64, 48], (6, 8)), ("16x16", (2, 2)), ("32x32", (4, 4))])
@pytest.mark.parametrize("frames, context", [(4, 4), (5, 2)])
def test_the_image_model_looks_at_its_own_size(host, image_size, side, frames, context):
    """And what it changes comes back; the video model, and an interrupt, never see that size."""
    options = {"image_size": image_size, "gamma_go": 2, "gamma_back": 1}
    p = host.clip(options=options, frames=frames, context=context, steps=4)
    result = host.run(p)
    for move, evaluation in moves_and_evaluations(host, p, Options(**options)):
        size = side if move.model == "image" else (4, 4)
        assert evaluation.x.shape[-2:] == size and all(call.x.shape[-2:] == size for call in evaluation.calls)
    same = host.run(host.clip(options={**options, "image_size": None}, frames=frames, context=context, steps=4))
    assert torch.equal(result, same) == (side == (4, 4))

    host.on_evaluated.append(lambda count: host.shared.state.interrupt() if count == 1 else None)
    assert host.run(host.clip(options=options, frames=frames, context=context, steps=4)).shape == result.shape


def test_another_size_does_not_go_with_a_mask(host):
    p = host.clip(options={"image_size": "64x64"}, **SMALL)
    p.mask, p.nmask = torch.ones(4, 4), torch.zeros(4, 4)
    with pytest.raises(HTTPException, match=r"image_size = \(64, 64\) cannot be used with inpainting"):
        host.run(p)
    assert host.evaluations == []


def test_features_of_windows_serve_their_step_alone(host):
    p = host.clip(options={"reused": "features", "reuse_percent": 75}, **SMALL)
    with pytest.raises(HTTPException, match=r"reuse_percent = 75.* cannot be used with reused = 'features'") as refused:
        host.run(p)
    assert refused.value.status_code == 422 and host.evaluations == []
    host.run(host.clip(options={"reused": "features", "reuse_percent": 75}, frames=4, context=4, steps=3))


@pytest.mark.parametrize("fields", [{}, {"frames": 3}])
def test_fresh_noise_is_that_of_each_rows_seed(host, fields):
    """The host's own generators: the same clip again, and the same noise for a row whatever the batch."""
    options = {"form": "RR-IV", "gamma_go": 2}
    p = host.clip(options=options, cfg_scale=5.5, **{**SMALL, **fields})
    result = host.run(p)
    frames = p.batch_size
    plan = plan_of(host, p, Options(**options))
    evaluations, rng = iter(host.evaluations), p.generators(5)
    latent = rng.next()[:frames] * plan.moves[0].sigma_from
    for move in plan.moves:
        if move.model == "noise":
            latent = latent + rng.next()[:frames] * (move.sigma_to**2 - move.sigma_from**2) ** 0.5
            continue
        evaluation = next(evaluations)
        seen = latent * ((1 + move.sigma**2) / (1 + move.sigma_from**2)) ** 0.5
        torch.testing.assert_close(evaluation.x, torch.cat([seen, seen]), rtol=1e-4, atol=1e-4)
        cond, uncond = evaluation.out[:frames], evaluation.out[frames:]
        eps = (evaluation.x[:frames] - (uncond + (cond - uncond) * (2 if move.kind == "go" else 5.5))) / move.sigma
        latent = latent + eps * (move.sigma_to - move.sigma_from)
    assert next(evaluations, None) is None
    torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)
    assert torch.equal(host.run(host.clip(options=options, cfg_scale=5.5, **{**SMALL, **fields})), result)


def test_what_an_extension_writes_into_a_prediction_is_not_reused(host):
    """A callback gets the network's own rows, each time."""
    def double(params):
        params.x.mul_(2)

    host.script_callbacks.on_cfg_denoised(double)
    p = host.clip(options={"reuse_percent": 50}, frames=4, context=4, steps=3)
    host.run(p)
    plan = plan_of(host, p, Options(reuse_percent=50))
    latest = {}
    for move, evaluation in zip(plan.moves, host.evaluations):
        if move.reuse:
            assert torch.equal(evaluation.out, latest[move.model])
        latest[move.model] = evaluation.out


# --- AnimateDiff's own work

@pytest.mark.parametrize("options", [
    {"form": "IV-IV"},  # the image model is asked first
    {"form": "VV-VV"},
    {"interval": [30, 100]},  # the ordinary step is
])
def test_prompt_travel_reaches_both_models(host, options):
    travel = {0: "day", 3: "night"}
    p = host.clip(options=options, prompt_map=travel, prompt=lambda frame: "day" if frame < 3 else "night", **SMALL)
    host.run(p)
    part = torch.tensor([0, 1 / 3, 2 / 3, 1, 1])[:, None, None]
    text = torch.lerp(host.encode("day").expand(5, -1, -1), host.encode("night").expand(5, -1, -1), part)
    rows = torch.cat([text, host.encode("blurry").expand(5, -1, -1)])
    for move, evaluation in moves_and_evaluations(host, p, Options(**options)):
        seen = torch.cat([call.context for call in evaluation.calls])
        if move.model == "image":
            torch.testing.assert_close(seen, rows)
        else:
            windows = host.windows(move.step, 5, 2, 0)
            order = [row for window in windows for row in (*window, *(frame + 5 for frame in window))]
            torch.testing.assert_close(seen, rows[order])
    assert p.sampler.model_wrap.original_forward is not None


def test_prompt_editing_follows_the_outer_steps(host):
    schedule = [(0, "one"), (1, "two"), (10, "three")]
    host.run(host.clip(negative_prompt=schedule, frames=4, context=4, steps=4))
    assert len({evaluation.step for evaluation in host.evaluations}) == 4
    for evaluation in host.evaluations:
        expected = host.encode(schedule[min(evaluation.step, 2)][1])
        assert torch.equal(evaluation.calls[0].context[4:], expected.expand(4, -1, -1))


# --- ControlNet

def images(rows):
    return torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(5))


def assert_control_of_image_rows(host, p, control):
    """Every image evaluation gave the UNet the control of its own rows; ``control(rows)`` is the whole batch's."""
    checked = 0
    for move, evaluation in moves_and_evaluations(host, p):
        start = 0
        for call in evaluation.calls:
            rows = slice(start, start + len(call.x))
            start += len(call.x)
            if move.model == "image":
                expected = host.unet(call.x + 0.1 * control[rows], timesteps=call.t, context=call.context)
                torch.testing.assert_close(call.out, expected)
                checked += 1
    assert checked > 3


@pytest.mark.parametrize("frames", [2, 5])
@pytest.mark.parametrize("memory", [torch.device("cpu"), "host memory"])
def test_control_images_are_those_of_the_rows(host, frames, memory):
    host.devices.cpu = memory  # with a GPU this is not where the network computes
    control = host.controlnet.ControlParams("ControlNet", host.controlnet.Hint(images(2 * frames), memory))
    kept = control.hint_cond
    p = host.clip(controls=[control], **{**SMALL, "frames": frames, "steps": 4})
    host.run(p)
    assert_control_of_image_rows(host, p, images(2 * frames))
    assert torch.equal(control.hint_cond.images, images(2 * frames))
    assert memory == "host memory" or control.hint_cond is kept


@pytest.mark.parametrize("frames", [2, 4, 5])
def test_a_reference_image_serves_every_row(host, frames):
    hint = host.controlnet.Hint(images(1), torch.device("cpu"))
    p = host.clip(controls=[host.controlnet.ControlParams("AttentionInjection", hint)],
                  **{**SMALL, "frames": frames, "steps": 4})
    host.run(p)
    assert_control_of_image_rows(host, p, images(1).expand(2 * frames, -1, -1, -1))


@pytest.mark.parametrize("frames", [4, 5, 8])
def test_a_control_with_motion_of_its_own_has_none_for_the_image_model(host, frames):
    hint = host.controlnet.Hint(images(2 * frames), host.devices.cpu)
    network = host.motion.VanillaTemporalModule()
    p = host.clip(controls=[host.controlnet.ControlParams("ControlNet", hint, network)],
                  frames=frames, context=4, steps=4)
    host.run(p)
    assert_control_of_image_rows(host, p, images(2 * frames))
    assert "forward" not in vars(network)


def test_lllite_images_are_those_of_the_rows(host):
    model = host.controlnet.PlugableControlLLLite(images(10))
    p = host.clip(controls=[host.controlnet.ControlParams("LLLite", control_model=model)], **SMALL)
    host.run(p)
    assert_control_of_image_rows(host, p, torch.tanh(images(10)))
    assert torch.equal(model.modules["one"].cond_image, images(10))


@pytest.mark.parametrize("rows", [slice(4, 7), torch.tensor([1, 8, 4])])
def test_only_what_has_a_row_for_each_row_is_cut(host, rows):
    from ivmixed.webui.extensions import controlnet

    emb = host.controlnet.ImageEmbed(images(10)[:, 0], torch.zeros(1, 4, 4))
    every, one = (SimpleNamespace(hint_cond=hint, hr_hint_cond=images(10), control_model=model) for hint, model in (
        (images(10), SimpleNamespace(image_emb=emb)), (images(1), SimpleNamespace())))
    script = SimpleNamespace(title=lambda: "ControlNet", latest_network=SimpleNamespace(control_params=[every, one]))
    runner = SimpleNamespace(alwayson_scripts=[script])
    before = [dict(vars(control)) for control in (every, one)]
    with pytest.raises(RuntimeError, match="within"), controlnet.rows(runner, rows, 10):
        for cut, whole in ((every.hint_cond, images(10)), (every.hr_hint_cond, images(10)),
                           (one.hr_hint_cond, images(10)), (every.control_model.image_emb.cond_emb, images(10)[:, 0])):
            assert torch.equal(cut, whole[rows])
        assert torch.equal(one.hint_cond, images(1))
        raise RuntimeError("within")
    for control, values in zip((every, one), before):
        assert all(getattr(control, name) is value for name, value in values.items())
    assert every.control_model.image_emb is emb
    for nothing in (None, SimpleNamespace(), SimpleNamespace(alwayson_scripts=[])):
        with controlnet.rows(nothing, rows, 10):
            pass


# --- what the host, its callbacks and the page are told

def told_by_euler(host, p):
    host.run(p)
    return {evaluation.step: evaluation.told for evaluation in host.evaluations}


def test_callbacks_are_told_the_outer_steps_as_by_euler(host):
    expected = told_by_euler(host, host.clip("Euler", **SMALL))
    assert expected == {0: (0, 3), 1: (0, 3), 2: (1, 3)}
    told = []
    for register in (host.script_callbacks.on_cfg_denoised, host.script_callbacks.on_cfg_after_cfg):
        register(lambda params: told.append((params.sampling_step, getattr(params, "total_sampling_steps", None))))
    p = host.clip(**SMALL)
    host.run(p)
    for move, evaluation in moves_and_evaluations(host, p):
        assert evaluation.told == expected[move.step]
    assert told == [evaluation.told for evaluation in host.evaluations for _ in range(2)]


def test_a_control_ends_at_its_outer_step(host):
    """ControlNet times its end by what it is told; 119 evaluations must not end it in the first quarter."""
    hint = host.controlnet.Hint(images(1), torch.device("cpu"))
    control = host.controlnet.ControlParams("ControlNet", hint, stop=0.3)
    stopped = []
    host.on_evaluated.append(lambda n: stopped.append(control.guidance_stopped))
    p = host.clip(controls=[control], **SMALL)
    host.run(p)
    assert stopped == [move.step == 2 for move in plan_of(host, p).moves]


@pytest.mark.parametrize("fields", [{}, {"options": {"interval": [0, 40]}}, {"options": {"form": "VV-VV"}},
                                    {"options": {"interval": [0, 40], "finish_percent": 20}}])
def test_progress_counts_evaluations(host, fields):
    bars = []
    host.on_evaluated.append(lambda n: bars.append(host.shared.total_tqdm._tqdm))
    p = host.clip(**fields, **SMALL)
    host.run(p)
    count = len(host.evaluations)
    assert [evaluation.progress for evaluation in host.evaluations] == [(n, count) for n in range(count)]
    assert p.progress == (count, count) and count > 3
    assert bars[-1].n == bars[-1].total == count


@pytest.mark.parametrize("first, second", [(NAME, None), (NAME, "Euler"), ("Euler", NAME)])
def test_hires(host, first, second):
    bars, jobs = [], []
    host.on_evaluated.append(lambda n: bars.append(host.shared.total_tqdm._tqdm))
    host.on_evaluated.append(lambda n: jobs.append(host.shared.state.job_no))
    p = host.clip(first, enable_hr=True, hr_sampler_name=second, hr_second_pass_steps=2, **SMALL)
    host.run(p)
    assert bars[-1].n == bars[-1].total == len(host.evaluations)
    counts = {NAME: jobs.count(0), f"{NAME} hires": jobs.count(1)}
    used = [key for key, sampler in zip(counts, (first, second or first)) if sampler == NAME]
    assert {key: value for key, value in p.extra_generation_params.items() if key.startswith(NAME)} == {
        key: f"{counts[key]} evaluations" for key in used}
    assert all(counts[key] > 3 for key in used)
    # the page's bar is at its end; the host's own sampler stops one before it
    assert p.progress[0] == counts[f"{NAME} hires"] - (second == "Euler")


def test_no_console_bar_is_made_where_the_host_makes_none(host):
    host.shared.opts.multiple_tqdm = False
    host.run(host.clip(enable_hr=True, **SMALL))
    assert host.shared.total_tqdm._tqdm is None
    assert host.shared.progress_print_out.getvalue() == ""


@pytest.mark.parametrize("content, options", [("Prompt", {}), ("Combined", {}), ("Combined", {"finish_percent": 20})])
def test_the_preview_is_of_ordinary_moves(host, content, options):
    host.shared.opts.live_preview_content = content
    p = host.clip(options=options, **SMALL)
    host.run(p)
    pairs, shown = moves_and_evaluations(host, p, Options(**options)), None
    for move, evaluation in pairs:
        if shown is None:
            assert evaluation.preview is None
        else:
            assert torch.equal(evaluation.preview, shown)
        if move.kind == "ordinary":
            cond, uncond = evaluation.out[:5], evaluation.out[5:]
            shown = cond if content == "Prompt" else uncond + (cond - uncond) * p.cfg_scale
    assert torch.equal(host.shared.state.current_latent, shown)
    assert len({id(evaluation.preview) for evaluation in host.evaluations}) == p.steps


def preview_steps(host, p, poll):
    """The outer steps in which a new preview was seen."""
    state, seen = host.shared.state, []

    def look(n):
        if poll:
            state.set_current_image()
        if state.id_live_preview > len(seen):
            seen.append(host.evaluations[-1].step)

    host.on_evaluated[:] = [look]
    host.run(p)
    return seen


def test_a_preview_every_n_steps_means_outer_steps(host):
    host.shared.opts.show_progress_every_n_steps = 3
    # the page asks at the end of every evaluation, before the host's callback counts it
    assert preview_steps(host, host.clip("Euler", steps=11, frames=2, context=2), poll=True) == [4, 7, 10]
    assert preview_steps(host, host.clip(steps=11, frames=2, context=2), poll=True) == [3, 6, 9]


def test_previews_that_the_sampler_makes_itself(host):
    """On hosts where the page may not decode beside the job."""
    host.shared.parallel_processing_allowed = False
    host.shared.opts.show_progress_every_n_steps = 3
    assert preview_steps(host, host.clip(steps=10, frames=2, context=2), poll=False) == [0, 3, 6, 9]


# --- the same as the host's own sampler

@pytest.mark.parametrize("fields, parameterization", [
    ({}, "eps"), ({"scheduler": "Karras"}, "eps"), ({"steps": 1}, "eps"),
    ({"init_latent": torch.ones(5, 4, 4, 4), "steps": 6}, "eps"), ({"enable_hr": True}, "eps"),
    ({"version": "v1"}, "eps"), ({}, "v"), ({"version": "v1", "enable_hr": True}, "v"),
])
def test_an_empty_interval_is_euler_to_the_bit(fields, parameterization):
    fields = {**SMALL, **fields}
    with loaded(parameterization) as host:
        expected = host.run(host.clip("Euler", **fields))
        count = len(host.evaluations)
        p = host.clip(options={"interval": [0, 0]}, **fields)
        assert torch.equal(host.run(p), expected)
        assert len(host.evaluations) == count
        if fields["steps"] > 1:
            assert not torch.equal(host.run(host.clip(**fields)), expected)


@pytest.mark.parametrize("animatediff", [True, False])
@pytest.mark.parametrize("fields", [
    {}, {"batch_size": 3}, {"init_latent": torch.ones(1, 4, 4, 4)}, {"s_min_uncond": 100.0}])
def test_without_motion_it_is_euler_and_says_so(animatediff, fields):
    off = "off - no motion module in the UNet"
    with loaded(animatediff=animatediff) as host:
        expected = host.run(host.still("Euler", **fields))
        steps = len(host.evaluations)
        if animatediff:
            fields = {**fields, "animatediff": host.animatediff.AnimateDiffProcess(enable=False)}
        p = host.still(**fields)
        assert torch.equal(host.run(p), expected)
        assert len(host.evaluations) == steps
        assert p.extra_generation_params[NAME] == off
        assert p.extra_generation_params.get("NGMS") == fields.get("s_min_uncond")
        assert host.log.lines == [off]


def test_what_is_a_clip(host):
    motion_of = host.module("extensions.animatediff").AnimateDiffMotion.of_clip
    extension = host.motion.mm_animatediff
    extension.set_ad_params(host.animatediff.AnimateDiffProcess(batch_size=7, prompt_scheduler="of the clip"))
    still = host.still()
    assert motion_of(still, 16) is None
    extension.inject(host.model, "v2")
    motion = motion_of(still, 16)
    assert motion.context == 7
    assert motion_of(still, 1) is None
    extension.ad_params.enable = False
    assert motion_of(still, 16) is None
    extension.set_ad_params(None)
    assert motion_of(still, 16) is None


# --- what is asked for and cannot be had

@pytest.fixture
def listed(host, tmp_path):
    """Two checkpoints in the host's list, of which one is loaded; the list was made anew since."""
    host.sd_models.folder = tmp_path
    for name in ("own", "other"):
        (tmp_path / f"{name}.safetensors").touch()
    host.sd_models.list_models()
    host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
    host.sd_models.list_models()
    return host


@pytest.mark.parametrize("fields", [
    {"refiner_checkpoint": "own"}, {"enable_hr": True, "hr_checkpoint_name": "own.safetensors"},
    {"hr_checkpoint_name": "other"}])
def test_a_refiner_that_is_the_loaded_checkpoint_is_none(listed, fields):
    expected = listed.run(listed.clip(**SMALL, enable_hr="enable_hr" in fields))
    p = listed.clip(**SMALL, **fields)
    assert torch.equal(listed.run(p), expected)
    assert "Refiner" not in p.extra_generation_params


@pytest.mark.parametrize("fields", [
    {"refiner_checkpoint": "other"}, {"enable_hr": True, "hr_checkpoint_name": "other"},
    {"sampler": "Euler", "enable_hr": True, "hr_sampler_name": NAME, "refiner_checkpoint": "other"}])
def test_a_change_of_the_checkpoint_is_refused_beside_animatediff(listed, fields):
    """It would die of it, and the requests after it too."""
    still = listed.run(listed.still("Euler"))
    listed.evaluations.clear()
    with pytest.raises(listed.sampler.RefusedError, match=r"= 'other' cannot be used with a clip.* none, or own"):
        listed.answer(listed.clip(**SMALL, **fields))
    assert listed.evaluations == [] and not listed.motion.AnimateDiffMM.mm_injected
    assert torch.equal(listed.run(listed.still("Euler")), still)
    assert listed.run(listed.still(refiner_checkpoint="other")) is not None


@pytest.mark.parametrize("asked, words", [
    ({"model": "gone.ckpt"}, "model = 'gone.ckpt' is not there; allowed: the files in AnimateDiff's folder"),
    ({"model": "xl.safetensors"}, "stopped before it put motion into the UNet"),
    ({"modell": "v3"}, "stopped before it put motion into the UNet")])
def test_a_still_is_refused_where_motion_is_asked_for(host, tmp_path, asked, words):
    (tmp_path / "AnimateDiff").mkdir()
    for name in ("xl.safetensors", "v3"):
        (tmp_path / "AnimateDiff" / name).touch()
    host.module("extensions.animatediff")._extension().get_model_dir = lambda: str(tmp_path / "AnimateDiff")
    with pytest.raises(host.sampler.RefusedError, match=words):
        host.run(host.still(animatediff={"enable": True, "video_length": 2, "batch_size": 2, "model": "v3", **asked}))
    assert host.evaluations == []
    p = host.still(animatediff={"enable": False, **asked})
    host.run(p)
    assert p.extra_generation_params[NAME].startswith("off")


@pytest.mark.parametrize("sampler, fields, settings, ignored", [
    (NAME, {"s_churn": 5.0}, {}, "sigma churn 5"), (NAME, {}, {"s_churn": 2.5}, "sigma churn 2.5"),
    (NAME, {"s_churn": 0.0, "s_noise": 1.1, "eta": 0.5}, {}, None),  # Euler has no use for them either
    (NAMES[1], {"s_churn": 5.0}, {}, None),
    (NAMES[2], {"s_noise": 1.1, "eta": 0.5}, {}, "eta 0.5, sigma noise 1.1"),
    (NAMES[2], {"s_noise": 0.0}, {"eta_ancestral": 0.0}, "eta 0, sigma noise 0"),
])
def test_noise_that_the_steps_do_not_add_is_said(host, sampler, fields, settings, ignored):
    vars(host.shared.opts).update(settings)
    p = host.clip(sampler, **SMALL, **fields)
    host.run(p)
    assert p.extra_generation_params.get(f"{NAME} ignored") == ignored
    assert len(lines(host, "ignored: the steps of IV-mixed add no noise")) == (ignored is not None)


# --- settings that leave the negative prompt out, and prompts of two lengths

def test_the_double_fails_where_the_host_does(host):
    """AnimateDiff's windows want cond and uncond in one batch."""
    host.shared.opts.skip_early_cond = 0.5
    with pytest.raises(IndexError):
        host.run(host.clip("Euler", **SMALL))
    host.shared.opts.skip_early_cond = 0
    for fields in ({"prompt": ("long", 2)}, {"s_min_uncond": 100.0}):
        with pytest.raises(IndexError):
            host.run(host.clip("Euler", **fields, **SMALL))


@pytest.mark.parametrize("s_min_uncond, skip_early_cond", [(100.0, 0), (0, 0.5), (100.0, 0.5)])
@pytest.mark.parametrize("options", [None, {"interval": [0, 0]}])
def test_the_negative_prompt_is_kept(host, s_min_uncond, skip_early_cond, options):
    expected = host.run(host.clip(options=options, **SMALL))
    host.log.lines.clear()
    host.shared.opts.skip_early_cond = skip_early_cond
    host.shared.opts.s_min_uncond_all = True
    p = host.clip(options=options, s_min_uncond=s_min_uncond, **SMALL)
    assert torch.equal(host.run(p), expected)
    assert host.shared.opts.skip_early_cond == skip_early_cond
    assert not {"NGMS", "Skip Early CFG"} & p.extra_generation_params.keys()
    said = lines(host, "held off")
    assert len(said) == 1
    assert ("NGMS" in said[0], "early sampling" in said[0]) == (s_min_uncond > 0, skip_early_cond > 0)
    assert len(host.log.lines) == 2


@pytest.mark.parametrize("settings", [{"s_min_uncond": 1.0}, {"skip_early_cond": 1.0}])
def test_the_image_models_ordinary_steps_may_leave_the_negative_prompt_out(host, settings):
    """As Euler's of the plain UNet do; AnimateDiff's windows cannot."""
    host.shared.opts.s_min_uncond_all = True
    host.shared.opts.skip_early_cond = settings.get("skip_early_cond", 0)
    options = {"interval": [0, 0], "finish_percent": 50, "finish_by": "steps"}
    p = host.clip(options=options, s_min_uncond=settings.get("s_min_uncond", 0), **{**SMALL, "steps": 6})
    host.run(p)
    pairs, plain = moves_and_evaluations(host, p, Options(**options)), host.unet
    assert [move.model for move, _ in pairs] == ["video"] * 3 + ["image"] * 3
    for move, evaluation in pairs:
        alone = move.model == "image" and ("skip_early_cond" in settings or move.sigma < 1.0)
        if move.model == "image":
            assert sum(len(call.x) for call in evaluation.calls) == (5 if alone else 10)
            for call in evaluation.calls:
                assert torch.equal(call.out, plain(call.x, timesteps=call.t, context=call.context))
    assert {"NGMS", "Skip Early CFG"} & p.extra_generation_params.keys()


def test_without_motion_the_image_model_finishes_nothing(host):
    """All steps are the plain UNet's then: the clip is Euler's."""
    p = host.still(options={"finish_percent": 20})
    assert torch.equal(host.run(p), host.run(host.still("Euler")))
    assert p.extra_generation_params[NAME] == "off - no motion module in the UNet"


def test_a_smaller_image_size_and_a_finish_are_refused(host):
    options = {"image_size": [16, 16], "finish_percent": 20}
    with pytest.raises(HTTPException, match="image_size = '2x2'") as refused:
        host.run(host.clip(options=options, **SMALL))
    assert refused.value.status_code == 422 and host.evaluations == []


def test_nothing_is_said_where_nothing_is_held_off(host):
    host.run(host.clip(**SMALL))
    assert host.log.lines == ["IV-IV, 2 of 3 steps active, 9 evaluations (6 video, 3 image)"]
    host.log.lines.clear()
    host.run(host.still(s_min_uncond=100.0))
    assert len(host.log.lines) == 1


@pytest.mark.parametrize("prompt, negative_prompt", [(("long", 2), "short"), ("short", ("long", 3))])
def test_prompts_of_two_lengths(host, prompt, negative_prompt):
    fields = dict(prompt=prompt, negative_prompt=negative_prompt, **SMALL)
    p = host.clip(**fields)
    mixed = host.run(p)
    assert p.extra_generation_params["Pad conds"] is True
    lengths = {call.context.shape[1] for evaluation in host.evaluations for call in evaluation.calls}
    assert lengths == {max(len(schedule[0][1]) for rows in (p.prompt, p.negative_prompt) for schedule in rows(1))}
    assert host.shared.opts.pad_cond_uncond is False
    host.shared.opts.pad_cond_uncond = True
    assert torch.equal(host.run(host.clip(**fields)), mixed)


def test_prompts_of_two_lengths_one_after_the_other_are_euler_s_own(host):
    """Where the host needs no padding, none changes the clip."""
    host.shared.opts.batch_cond_uncond = False
    fields = dict(prompt=("long", 2), **SMALL)
    p = host.clip(options={"interval": [0, 0]}, **fields)
    assert torch.equal(host.run(p), host.run(host.clip("Euler", **fields)))
    assert "Pad conds" not in p.extra_generation_params


def test_cond_and_uncond_one_after_the_other(host):
    expected = host.run(host.clip(version="v3", **SMALL))
    host.shared.opts.batch_cond_uncond = False
    torch.testing.assert_close(host.run(host.clip(version="v3", **SMALL)), expected, rtol=1e-4, atol=1e-4)


def test_one_after_the_other_only_ordinary_moves_may_leave_the_negative_prompt_out(host):
    host.shared.opts.batch_cond_uncond = False
    host.shared.opts.s_min_uncond_all = True
    p = host.clip(s_min_uncond=100.0, frames=2, context=2, steps=3)
    host.run(p)
    for move, evaluation in moves_and_evaluations(host, p):
        assert sum(len(call.x) for call in evaluation.calls) == (2 if move.kind == "ordinary" else 4)


# --- everything is put back

def watch_sampling(host):
    """What `sample_iv_mixed` left changed in the host, motion still in, of every run from now on."""
    left, sample = [], host.sampler.sample_iv_mixed

    def watched(evaluate, *args, **kwargs):
        sampler = evaluate.__self__.sampler
        before = host.snapshot(sampler)
        try:
            return sample(evaluate, *args, **kwargs)
        finally:
            left.append(before.changed(host.snapshot(sampler)) - ANIMATEDIFFS_OWN)

    host.sampler.sample_iv_mixed = watched
    return left


ANIMATEDIFFS_OWN = {
    # set up at the first evaluation of a sampler, with Euler as well
    "sampler.model_wrap.forward", "sampler.model_wrap.original_forward",
    # the host's own counting
    "sampler.model_wrap_cfg.step", "sampler.model_wrap_cfg.padded_cond_uncond",
}


def changed_by(host, p, error=None):
    """What a request leaves changed in the host, and its latents."""
    before = host.snapshot()
    if error is None:
        latents = host.run(p)
    else:
        with pytest.raises(type(error)) as raised:
            host.run(p)
        assert raised.value is error
        latents = None
    return before.changed(host.snapshot()), latents


REQUEST = {"mm_animatediff.ad_params"}
"""Of the request itself, which AnimateDiff keeps until the next."""


@pytest.mark.parametrize("version, batch_cond_uncond", [("v1", True), ("v2", False), ("v3", False)])
def test_after_success_the_host_is_as_before(host, version, batch_cond_uncond):
    host.shared.opts.batch_cond_uncond = batch_cond_uncond
    still, clip = host.run(host.still("Euler")), host.run(host.clip("Euler", version=version, **SMALL))
    left = watch_sampling(host)
    changed, _ = changed_by(host, host.clip(version=version, s_min_uncond=1.0, prompt=("long", 2), **SMALL))
    assert changed <= REQUEST
    assert left == [set()]
    assert torch.equal(host.run(host.clip("Euler", version=version, **SMALL)), clip)
    assert torch.equal(host.run(host.still("Euler")), still)


def test_the_snapshot_notices_changes(host):
    """The comparison can fail: one of each kind of change that the sampler makes."""
    host.run(host.clip("Euler", version="v1", **SMALL))
    host.motion.mm_animatediff.inject(host.model, "v1")
    before = host.snapshot()
    for path, target, name, value in (
        ("mm.up_blocks.0.forward", host.motion.mm_animatediff.mm.up_blocks[0], "forward", len),
        ("GroupNorm32.forward", host.group_norm, "forward", len),
        ("sd_model._buffers", host.model, "alphas_cumprod", host.model.alphas_cumprod.clone()),
        ("opts.skip_early_cond", host.shared.opts, "skip_early_cond", 0.5),
        ("state.interrupted", host.shared.state, "interrupted", True),
        ("modules.sd_samplers.all_samplers", host.sd_samplers, "all_samplers", []),
        ("modules.sd_samplers_common.store_latent", host.sampler.sd_samplers_common, "store_latent", len),
    ):
        original, inherited = getattr(target, name), name == "forward" and target is not host.group_norm
        setattr(target, name, value)
        assert path in before.changed(host.snapshot())
        delattr(target, name) if inherited else setattr(target, name, original)
        assert before.changed(host.snapshot()) == set()
    host.model.alphas_cumprod[7] += 0.001
    assert "sd_model._buffers[alphas_cumprod]" in before.changed(host.snapshot())


@pytest.mark.parametrize("version, kind", [
    ("v1", torch.OutOfMemoryError), ("v3", RuntimeError), ("v3", KeyboardInterrupt)])
def test_after_an_error_in_any_evaluation_the_host_is_as_before(host, version, kind):
    fields = dict(version=version, **SMALL)
    still, clip, mixed = (host.run(p) for p in (
        host.still("Euler"), host.clip("Euler", **fields), host.clip(**fields)))
    left = watch_sampling(host)
    for n in range(1, len(host.evaluations) + 1):
        error = kind("from the network")
        host.fail_at = n, 1 + n % 2, error
        changed, _ = changed_by(host, host.clip(**fields), error)
        host.fail_at = None
        assert len(host.evaluations) == n
        assert left.pop() == set()
        if kind is not KeyboardInterrupt:
            assert changed <= REQUEST
            assert host.motion.AnimateDiffMM.mm_injected is False
        assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip("Euler", **fields)), clip)
    assert torch.equal(host.run(host.clip(**fields)), mixed)


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_a_clip_that_animatediff_did_not_prepare_is_refused(host, version, monkeypatch):
    """It has put its motion in before it stops, and the host goes on."""
    still, mixed = host.run(host.still("Euler")), host.run(host.clip(version=version, **SMALL))
    with monkeypatch.context() as patch:
        patch.setattr(host.animatediff.AnimateDiffProcess, "set_overlap", lambda self: {}.enabled)
        with pytest.raises(host.sampler.RefusedError, match=r"stopped while it prepared .* ControlNet's units"):
            host.run(host.clip(version=version, **SMALL))
    assert host.evaluations == [] and host.motion.AnimateDiffMM.mm_injected is False
    assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip(version=version, **SMALL)), mixed)


def interrupted_latent(pairs, frames):
    """The last ordinary prediction; before the first, the last of a go move."""
    latent = None
    for move, evaluation in pairs:
        if move.kind == "ordinary" or (move.kind == "go" and move.step == 0):
            latent = evaluation.out[:frames]
    return latent


def test_after_an_interrupt_in_any_evaluation_the_host_is_as_before(host):
    still = host.run(host.still("Euler"))
    p = host.clip(**SMALL)
    host.run(p)
    plan, left = plan_of(host, p), watch_sampling(host)
    for n in range(1, plan.evaluations):
        host.on_evaluated[:] = [lambda count, n=n: count == n and host.shared.state.interrupt()]
        changed, latents = changed_by(host, host.clip(**SMALL))
        pairs = list(zip(plan.moves, host.evaluations))
        assert len(pairs) == n
        assert torch.equal(latents, interrupted_latent(pairs, 5))
        # the host's own flag, taken back when the next job begins
        assert changed <= REQUEST | {"state.interrupted"}
        assert left.pop() <= {"state.interrupted"}
        host.on_evaluated.clear()
        assert torch.equal(host.run(host.still("Euler")), still)


@pytest.mark.parametrize("how, fields, said", [
    ("interrupt", {}, {NAME: "interrupted after 7 of 9 evaluations"}),
    ("skip", {}, {NAME: "skipped after 7 of 9 evaluations"}),
    ("interrupt", {"enable_hr": True, "hr_second_pass_steps": 2}, {NAME: "interrupted after 7 of 9 evaluations"}),
    ("interrupt", {"enable_hr": True, "hr_second_pass_steps": 2, "steps": 2},
     {NAME: "4 evaluations", f"{NAME} hires": "interrupted after 3 of 4 evaluations"}),
])
def test_the_infotext_says_what_was_done(host, how, fields, said):
    host.on_evaluated.append(lambda count: count == 7 and getattr(host.shared.state, how)())
    p = host.clip(**{**SMALL, **fields})
    host.run(p)
    assert {key: value for key, value in p.extra_generation_params.items() if key.startswith(NAME)} == said


def test_the_second_of_two_clips_does_not_say_what_the_first_took_in_its_second_pass(host):
    p = host.clip(enable_hr=True, hr_second_pass_steps=2, n_iter=2, steps=2, frames=2, context=2)
    host.on_evaluated.append(lambda count: count == 10 and host.shared.state.interrupt())
    result = host.answer(p)
    first, second = result.infotexts[0], result.infotexts[-1]
    assert "IV-mixed: 4 evaluations, IV-mixed hires: 4 evaluations" in first
    assert "IV-mixed: interrupted after 2 of 4 evaluations" in second and "hires" not in second


def test_an_interrupt_before_the_first_evaluation(host):
    host.script("ControlNet").process_batch = lambda p, *args: host.shared.state.interrupt()
    p = host.clip(**SMALL)
    latents = host.run(p)
    assert host.evaluations == []
    assert p.extra_generation_params[NAME] == "interrupted after 0 of 9 evaluations"
    assert torch.equal(latents, p.noise(5) * p.sampler.get_sigmas(p, 3)[0])


def test_an_interrupt_from_the_hosts_callback(host, monkeypatch):
    """`stop_at` ends the sampling in the callback of a step."""
    init = host.sampler.Sampler.__init__

    def with_stop(self, *args):
        init(self, *args)
        self.stop_at = 0

    monkeypatch.setattr(host.sampler.Sampler, "__init__", with_stop)
    left = watch_sampling(host)
    latents = host.run(host.clip(**SMALL))
    assert host.evaluations[-1].step == 1
    assert torch.equal(latents, host.evaluations[-1].out[:5])
    assert left == [set()]


# --- wrong input, and scripts that are not there

@pytest.mark.parametrize("options, words", [
    ({"gamma_go": 40}, ["gamma_go", "40", "0 to 30"]),
    ({"gama_go": 4}, ["gama_go", "gamma_go"]),
    ({"interval": [60, 20]}, ["interval", "[60, 20]", "0 to 100"]),
    ({"form": "IV-XX"}, ["form", "IV-XX", "IV-IV"]),
    (["IV-IV"], ["args", "IV-IV", "form"]),
    ([{"form": "IV-IV"}, {"gamma_go": 4}], ["args", "form"]),
    ([True, "IV-IV", 31.0], ["gamma_go", "31.0", "0 to 30"]),
    ([True, "IV-IV", "4", "4", 0.0, 60.0, 20.0], ["interval", "[60.0, 20.0]"]),
])
@pytest.mark.parametrize("clip", [True, False])
def test_wrong_input_is_refused_before_the_first_evaluation(host, options, words, clip):
    still, _ = host.run(host.still("Euler")), host.run(host.clip("Euler", **SMALL))
    before = host.snapshot()
    with pytest.raises(HTTPException) as refused:
        host.run(host.clip(options=options, **SMALL) if clip else host.still(options=options))
    assert refused.value.status_code == 422
    assert all(word in refused.value.detail for word in words)
    assert str(refused.value) == refused.value.detail  # what the page shows
    assert host.evaluations == []
    assert before.changed(host.snapshot()) <= REQUEST
    assert torch.equal(host.run(host.still("Euler")), still)
    assert host.errors.reports == []


def test_where_the_script_does_not_run_options_are_the_defaults(host):
    """ADetailer makes its own request with a runner of the scripts that it was told to keep."""
    expected = host.run(host.clip(**SMALL))
    p = host.clip(options={"form": "II-II", "gamma_go": 1000}, **SMALL)
    kept = host.scripts.ScriptRunner()
    kept.alwayson_scripts = [script for script in host.runner.alwayson_scripts if script.title() != NAME]
    p.scripts = kept
    assert torch.equal(host.run(p), expected)
    p = host.still()
    for p.scripts in (None, SimpleNamespace(), SimpleNamespace(alwayson_scripts=None)):
        assert host.panel.options_of(p) == Options()
    p.scripts, p.script_args = host.runner, ()
    assert host.panel.options_of(p) == Options()


# --- the infotext

def test_infotext_names_the_options_that_differ(host):
    options = {"form": "II-II", "gamma_go": [6, 2], "interval": [0, 70], "gamma_image_back": "0=3 50=1"}
    p = host.clip(options=options, **SMALL)
    host.run(p)
    assert {key: value for key, value in p.extra_generation_params.items() if key.startswith(f"{NAME} ")} == {
        "IV-mixed form": "II-II", "IV-mixed gamma go": "6 to 2", "IV-mixed interval": "0 to 70",
        "IV-mixed gamma image back": "0=3 50=1"}
    assert re.fullmatch(r"\d+ evaluations", p.extra_generation_params[NAME])


@pytest.mark.parametrize("fields, named", [
    ({}, False), ({"hr_sampler_name": NAME, "enable_hr": True}, True), ({"hr_sampler_name": "Euler"}, False)])
def test_infotext_of_other_samplers_is_left_alone(host, fields, named):
    p = host.clip("Euler", options={"form": "II-II"}, **fields, **SMALL)
    host.run(p)
    assert ("IV-mixed form" in p.extra_generation_params) == named


# --- the double itself

def test_the_double_leaves_no_trace():
    before, path, handlers = dict(sys.modules), sys.path[:], logging.getLogger("ivmixed").handlers[:]
    with loaded():
        assert "modules.shared" in sys.modules and "scripts.animatediff_mm" in sys.modules
        assert "ivmixed.webui.hosts.a1111" in sys.modules
    gone = {"modules", "scripts", "k_diffusion", "ldm"}
    assert {name for name in sys.modules if name.split(".")[0] in gone or name.startswith("ivmixed.webui")} == {
        name for name in before if name.split(".")[0] in gone or name.startswith("ivmixed.webui")}
    assert sys.path == path
    assert logging.getLogger("ivmixed").handlers == handlers
    assert hasattr(ivmixed, "webui") == ("ivmixed.webui" in before)
