"""The sampler on the Forge family, against doubles of its four hosts (tests/host)."""
import sys

import pytest
import torch
from fastapi import HTTPException

from ivmixed import Options, Schedule, make_plan

from .host import NAME, NAMES, loaded
from .host.forge_host import HOSTS, across, loaded_forge

SMALL = {"frames": 5, "context": 5, "steps": 3}
MOVING = tuple(host for host in HOSTS if host != "reforge")
"""Where the UNet calls what sd-forge-animatediff puts there."""


@pytest.fixture(params=HOSTS)
def any_host(request):
    with loaded_forge(request.param) as host:
        yield host


@pytest.fixture(params=HOSTS)
def host(request):
    """Hosts whose UNet calls motion: on reForge as if it had the call that it lacks, to test the rest of its file."""
    with loaded_forge(request.param) as host:
        host.base.Block.reads_modifiers = True
        yield host


def linear(host):
    """AnimateDiff's table, as the network of this host has it during a clip."""
    if host.kind == "forge_previous":
        abar = torch.cumprod(1 - torch.linspace(0.00085, 0.012, 1000), dim=0)
        return ((1 - abar) / abar) ** 0.5
    return torch.tensor(Schedule.linear().sigmas)


def plan_of(host, options=None):
    """The plan that the last request must have run in its first pass."""
    tables = (Schedule.from_sigmas(sigmas.tolist()) for sigmas in (linear(host), host.own_sigmas()))
    return make_plan(options or Options(), host.levels[0], *tables)


def run(host, options=None, **fields):
    """A clip: the request, its latents, its moves with the evaluations that made them."""
    p = host.clip(options=options, **{**SMALL, **fields})
    latents = host.run(p)
    plan = plan_of(host, options and Options(**options))
    assert len(host.evaluations) == len(plan.moves)
    return p, latents, list(zip(plan.moves, host.evaluations))


# --- registration

def test_each_host_is_told_by_a_module_of_its_own(any_host):
    found = any_host.module("hosts").find()
    assert type(found).__module__ == f"ivmixed.webui.hosts.forge.{any_host.kind.removeprefix('forge_')}"
    assert "ivmixed.webui.hosts.a1111" not in sys.modules


def test_automatic1111_has_none_of_them():
    with loaded() as host:
        assert type(host.module("hosts").find()).__module__ == "ivmixed.webui.hosts.a1111"


def test_listed_once_and_in_place(any_host):
    listed = any_host.sd_samplers.all_samplers
    for _ in range(2):
        any_host.load_scripts()
    assert any_host.sd_samplers.all_samplers is listed
    assert any_host.sd_samplers.visible_sampler_names() == ["DPM++ 2M", "Euler", *NAMES]
    assert listed[2:] == [any_host.sd_samplers.all_samplers_map[name] for name in NAMES]
    assert all(isinstance(value, str) for data in listed[2:] for value in data.options.values())


def test_hosts_without_a_memory_of_names(any_host):
    """Forge 29be1da7 and Forge Classic."""
    del any_host.sd_samplers.get_sampler_and_scheduler
    any_host.load_scripts()
    assert [any_host.sd_samplers.visible_sampler_names().count(name) for name in NAMES] == [1, 1, 1]


# --- which network answers, on which table, with which guidance

FINISHED = {"interval": [0, 0], "finish_percent": 20}


@pytest.mark.parametrize("host, version, fits, options", across(
    [("v3", True, {}), ("v1", False, {"form": "II-II"})],
    [(version, fits, options) for options in ({"schedule_match": "timestep"}, {"above_sigma_max": "skip"},
                                              {"interval": [30, 100]}, FINISHED)
     for version, fits in (("v1", True), ("v1", False), ("v3", False))]), indirect=["host"])
def test_every_evaluation_of_a_clip(host, version, fits, options):
    host.shared.fits_in_memory = fits
    _, _, pairs = run(host, options, version=version)
    tables = {"video": Schedule.from_sigmas(linear(host).tolist()),
              "image": Schedule.from_sigmas(host.own_sigmas().tolist())}
    models = set()
    for move, evaluation in pairs:
        models.add(move.model)
        assert evaluation.step == move.step
        level = torch.full_like(evaluation.sigma, move.sigma)
        assert torch.equal(evaluation.sigma, level)
        guided = host.kind != "classic" or move.kind != "ordinary" or move.step > 0
        assert [len(call.x) for call in evaluation.calls] == ([5] if not guided else [10] if fits else [5, 5])
        for call in evaluation.calls:
            torch.testing.assert_close(call.x[:5], host.scaled(evaluation.x, level))
            assert call.t.tolist() == pytest.approx(
                [tables[move.model].sigma_to_timestep(move.sigma)] * len(call.t), abs=0.51)
            same = torch.equal(call.out, host.unet(call.x, call.t, call.context))
            assert same == (move.model == "image")
    assert models == {"video", "image"}


def test_the_two_tables_differ(host):
    """At one level the models are asked at the timesteps that each has for it."""
    _, _, pairs = run(host, {"form": "II-II"}, steps=8)
    seen = {}
    for move, evaluation in pairs:
        seen.setdefault(move.sigma, {})[move.model] = int(evaluation.calls[0].t[0])
    both = [(models["image"], models["video"]) for models in seen.values() if len(models) == 2]
    assert len(both) >= 5
    assert all(image - video > 20 for image, video in both if 100 < video < 900)


def assert_guidance(host, p, pairs, result, scales):
    """Each evaluation's latent follows from the one before by the move's guidance."""
    latent = p.noise(5) * pairs[0][0].sigma_from
    for move, evaluation in pairs:
        seen = latent * ((1 + move.sigma**2) / (1 + move.sigma_from**2)) ** 0.5
        torch.testing.assert_close(evaluation.x, seen, rtol=1e-4, atol=1e-4)
        scale = scales[move.kind](move)
        if len(evaluation.calls[0].x) == 10:
            torch.testing.assert_close(evaluation.out, host.guided(evaluation, scale), rtol=1e-4, atol=1e-4)
        else:
            assert scale == 1
        latent = latent + (evaluation.x - evaluation.out) / move.sigma * (move.sigma_to - move.sigma_from)
    if result is not None:
        torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"skip_early_cond": 0.6}, {"s_min_uncond": 100.0}])
def test_guidance_arrives_as_sent(host, settings):
    """Whatever would leave the negative prompt out: it acts on ordinary moves, as on Euler's steps, and on no other."""
    for name, value in settings.items():
        setattr(host.shared.opts, name, value)
    host.shared.opts.s_min_uncond_all = True
    p, result, pairs = run(host, {"gamma_go": 2, "gamma_back": 3}, cfg_scale=5.5,
                           s_min_uncond=settings.get("s_min_uncond", 0.0))

    def ordinary(move):
        early = settings.get("skip_early_cond", 0) * p.steps
        first = host.kind == "classic" and move.step <= early
        skipped = host.kind in ("forge_main", "reforge") and early > 0 and move.step <= early
        below = host.kind != "forge_previous" and "s_min_uncond" in settings
        return 1 if first or skipped or below else 5.5

    assert_guidance(host, p, pairs, result, {"go": lambda m: 2, "back": lambda m: -3, "ordinary": ordinary})
    said = [line for line in host.log.lines if "held off" in line]
    assert len(said) == (bool(settings) and host.kind != "forge_previous")


def test_guidance_of_the_hires_pass(host):
    """Forge main and reForge have a CFG scale of its own, which is the ordinary move's."""
    options = {"gamma_go": 2, "gamma_back": 3}
    p = host.clip(options=options, enable_hr=True, hr_cfg=3.5, cfg_scale=5.5, **{**SMALL, "steps": 5})
    host.run(p)
    first = plan_of(host, Options(**options)).evaluations
    scales = {2.0, -3.0, 3.5 if host.kind in ("forge_main", "reforge") else 5.5}
    seen = set()
    for evaluation in host.evaluations[first:]:
        if len(evaluation.calls[0].x) == 5:
            continue  # Classic's first ordinary step
        fits = [scale for scale in scales
                if torch.allclose(evaluation.out, host.guided(evaluation, scale), rtol=1e-5, atol=1e-5)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert seen == scales
    assert p.hr_cfg == 3.5


@pytest.mark.parametrize("reuse_percent", [0, 50])
def test_extra_moves_guide_where_the_cfg_scale_is_1(host, reuse_percent):
    """Forge main does not even encode the negative prompt then."""
    p, result, pairs = run(host, {"reuse_percent": reuse_percent}, cfg_scale=1.0)
    if reuse_percent == 0:
        assert_guidance(host, p, pairs, result, {"go": lambda m: 4, "back": lambda m: -4, "ordinary": lambda m: 1})
    assert {len(torch.cat([call.x for call in evaluation.calls])) for move, evaluation in pairs
            if move.kind != "ordinary" and not move.reuse} == {10}
    assert p.cfg_scale == 1.0


def test_cfg_1_of_a_still_is_left_alone(any_host):
    expected = any_host.run(any_host.still("Euler", cfg_scale=1.0))
    p = any_host.still(cfg_scale=1.0)
    assert torch.equal(any_host.run(p), expected)
    assert (p.uc is None) == (any_host.kind == "forge_main")


@pytest.mark.parametrize("host, options, fits", across(
    [({"reuse_percent": 50}, "at times")],
    [(options, fits) for options in ({"reuse_percent": 75}, {"form": "II-II", "reuse_percent": 50})
     for fits in (True, False, "at times")]), indirect=["host"])
def test_a_reused_prediction_is_that_of_the_latest_evaluation(host, options, fits):
    """No network is called for it, however the host batches cond and uncond in between."""
    host.shared.fits_in_memory = bool(fits)
    if fits == "at times":
        host.on_evaluated.append(lambda n: setattr(host.shared, "fits_in_memory", n % 3 > 0))
    p, result, pairs = run(host, {"gamma_go": 2, "gamma_back": 3, **options}, steps=5, cfg_scale=5.5)
    latent, latest = p.noise(5) * pairs[0][0].sigma_from, {}
    reused = 0
    for move, evaluation in pairs:
        if move.reuse:
            before, sigma = latest[move.model]
            assert evaluation.calls == []
            assert torch.equal(evaluation.x, before.x)
            reused += 1
        else:
            assert len(evaluation.calls) > 0
            latest[move.model] = before, sigma = evaluation, move.sigma
        rows = torch.cat([call.out for call in before.calls])  # uncond first
        assert len(rows) == 10
        uncond, cond = (evaluation.x - eps * sigma for eps in rows.chunk(2))
        scale = {"go": 2, "back": -3, "ordinary": 5.5}[move.kind]
        if move.kind != "ordinary" or host.kind != "classic" or move.step > 0:
            torch.testing.assert_close(evaluation.out, uncond + (cond - uncond) * scale, rtol=1e-4, atol=1e-4)
        latent = latent + (evaluation.x - evaluation.out) / sigma * (move.sigma_to - move.sigma_from)
    assert reused > 0
    torch.testing.assert_close(result, latent, rtol=1e-4, atol=1e-4)


def test_controls_are_not_run_for_a_reused_prediction(host):
    asked = []

    def control(rows):
        asked.append(len(host.evaluations))
        return torch.ones(rows, 4, 4, 4)

    host.model.forge_objects_after_applying_lora.unet.controlnet_linked_list = control
    _, _, pairs = run(host, {"reuse_percent": 50})
    assert set(asked) == {n for n, (move, _) in enumerate(pairs, 1) if not move.reuse}


# --- motion, and what else is in the options

def test_motion_that_is_never_called_is_refused():
    with loaded_forge("reforge") as host:
        still, _ = host.run(host.still("Euler")), host.run(host.clip("Euler", **SMALL))
        before = host.snapshot()
        for options in ({}, {"interval": [0, 0]}):
            with pytest.raises(HTTPException) as refused:
                host.run(host.clip(options=options, **SMALL))
            assert refused.value.status_code == 422
            assert "reForge's UNet never calls" in refused.value.detail
            assert len(host.evaluations) <= 2
            assert before.changed(host.snapshot()) <= REQUEST
        assert torch.equal(host.run(host.still("Euler")), still)


def test_other_hosts_say_so_too():
    for kind in MOVING:
        with loaded_forge(kind) as host:
            host.base.Block.reads_modifiers = False
            with pytest.raises(HTTPException, match="never calls it"):
                host.run(host.clip(**SMALL))


def test_entries_of_others_stay_for_both_models(host):
    calls = []

    def other(x, identifier, *args):
        calls.append(len(host.evaluations))
        return x + 0.01 if identifier == "after" else x

    host.model.forge_objects_after_applying_lora.unet.add_block_inner_modifier(other)
    _, _, pairs = run(host)
    assert set(calls) == set(range(1, len(pairs) + 1))
    for move, evaluation in pairs:
        call = evaluation.calls[0]
        if move.model == "image":
            with torch.no_grad():
                expected = host.network.diffusion_model(
                    call.x, call.t, call.context, None, {"block_inner_modifiers": [other]})
            assert torch.equal(call.out, expected)


def test_windows_do_not_overlap_for_the_image_model(host):
    _, _, pairs = run(host, frames=32, context=16)
    for move, evaluation in pairs:
        assert len(evaluation.calls) == (2 if move.model == "image" else 3)
        if move.model == "image":
            seen = torch.cat([call.x[:16] for call in evaluation.calls])
            whole = evaluation.x / (evaluation.sigma[:, None, None, None] ** 2 + 1) ** 0.5
            assert {tuple(row.flatten().tolist()) for row in seen} == {
                tuple(row.flatten().tolist()) for row in whole}
    params = host.motion.mm_animatediff.ad_params
    assert (params.overlap, params.stride, params.closed_loop) == (4, 1, "R-P")


def test_prompt_travel_reaches_both_models(host):
    travel = {0: "day", 3: "night"}
    _, _, pairs = run(host, prompt_map=travel, prompt=lambda frame: "day" if frame < 3 else "night")
    part = torch.tensor([0, 1 / 3, 2 / 3, 1, 1])[:, None, None]
    text = torch.lerp(host.encode("day").expand(5, -1, -1), host.encode("night").expand(5, -1, -1), part)
    for _, evaluation in pairs:
        torch.testing.assert_close(torch.cat([call.context for call in evaluation.calls])[-5:], text)


def test_a_still_has_no_motion(any_host):
    expected = any_host.run(any_host.still("Euler", batch_size=3))
    p = any_host.still(batch_size=3)
    assert torch.equal(any_host.run(p), expected)
    assert p.extra_generation_params[NAME] == "off - no motion module in the UNet"


def test_an_empty_interval_is_euler_on_animatediffs_table(host):
    fields = {**SMALL, "steps": 4}  # at entries of the table: between two, rounding decides for one
    _, latents, pairs = run(host, {"interval": [0, 0]}, steps=4)
    assert [move.kind for move, _ in pairs] == ["ordinary"] * 4
    expected = host.run(host.clip("Euler", **fields))
    assert torch.equal(latents, expected) == (host.kind == "forge_previous")
    if host.kind != "forge_previous":
        # these hosts leave Euler on the checkpoint's own table: on AnimateDiff's it is the same clip
        host.table.set_sigmas(linear(host))
        if host.kind != "forge_main":
            host.model.alphas_cumprod = 1 / (1 + linear(host) ** 2)
        torch.testing.assert_close(latents, host.run(host.clip("Euler", **fields)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fields", [{"enable_hr": True, "hr_cfg": 5}, {"init_latent": torch.ones(5, 4, 4, 4)}])
def test_hires_and_img2img_are_on_animatediffs_table_too(host, fields):
    host.run(host.clip(**{**SMALL, "steps": 6, **fields}))
    assert all(levels[0] == pytest.approx(linear(host)[-1].item(), rel=1e-5) for levels in host.levels)
    assert len(host.levels) == 1 + fields.get("enable_hr", False)
    assert len(host.evaluations) > 10


# --- what the host, its callbacks and the page are told

def test_callbacks_are_told_the_outer_steps_as_by_euler(host):
    host.run(host.clip("Euler", **SMALL))
    expected = {evaluation.step: evaluation.told for evaluation in host.evaluations}
    _, _, pairs = run(host)
    assert all(evaluation.told == expected[move.step] for move, evaluation in pairs)


def test_progress_counts_evaluations(host):
    bars = []
    host.on_evaluated.append(lambda n: bars.append(host.shared.total_tqdm._tqdm))
    p, _, pairs = run(host)
    count = len(pairs)
    assert [evaluation.progress for evaluation in host.evaluations] == [(n, count) for n in range(count)]
    assert p.progress == (count, count)
    assert bars[-1].n == bars[-1].total == count


@pytest.mark.parametrize("host, options", across([({},)], [({"finish_percent": 20},)]), indirect=["host"])
def test_the_preview_is_of_ordinary_moves(host, options):
    _, _, pairs = run(host, options)
    shown = None
    for move, evaluation in pairs:
        assert evaluation.preview is None if shown is None else torch.equal(evaluation.preview, shown)
        if move.kind == "ordinary":
            shown = evaluation.out
    assert torch.equal(host.shared.state.current_latent, shown)


def test_the_page_says_why_a_clip_was_refused(any_host):
    """Three of the hosts print what a generation raises, and show that None is no list."""
    def fails():
        raise RuntimeError("another's")

    for _ in range(2):
        shown = any_host.run_in_page(any_host.clip(options={"gamma_go": 40}, **SMALL))
        assert "RefusedError: IV-mixed: gamma_go = 40 is not allowed" in shown
        any_host.load_scripts()
    assert "torch.Size([1, 4, 4, 4])" in any_host.run_in_page(any_host.still())
    assert ("another's" in any_host.page_after(fails)) == (any_host.kind == "forge_main")


def test_the_page_says_where_a_latent_became_nan(host):
    shown = host.run_in_page(host.clip(cfg_scale=torch.nan, **SMALL))
    assert "NonFiniteError: IV-mixed: the latent became NaN" in shown


def test_unloaded_scripts_leave_the_page_as_it_was(any_host):
    tasks = sys.modules["modules_forge.main_thread"].Task
    any_host.script_callbacks.script_unloaded_callback()
    assert tasks.work.__qualname__ == "Task.work"


# --- everything is put back

REQUEST = {"mm_animatediff.ad_params", "mm_animatediff.mm", "sd_model.forge_objects"}
"""Of the request itself, which the host and AnimateDiff keep until the next."""


@pytest.mark.parametrize("host, options", across([({},)], [({"reuse_percent": 50},)]), indirect=["host"])
def test_after_success_the_host_is_as_after_euler(host, options):
    euler = host.run(host.clip("Euler", version="v1", **SMALL))
    still = host.run(host.still("Euler"))
    before = host.snapshot()
    host.run(host.clip("Euler", version="v1", **SMALL))
    by_euler = before.changed(host.snapshot())
    host.run(host.clip(options=options, version="v1", **SMALL))
    assert before.changed(host.snapshot()) == by_euler
    assert torch.equal(host.run(host.clip("Euler", version="v1", **SMALL)), euler)
    assert torch.equal(host.run(host.still("Euler")), still)


@pytest.mark.parametrize("host, kind", across([(RuntimeError,)], [(torch.OutOfMemoryError,)]), indirect=["host"])
def test_after_an_error_in_any_evaluation_the_host_is_as_before(host, kind):
    still = host.run(host.still("Euler"))
    euler, mixed = host.run(host.clip("Euler", **SMALL)), host.run(host.clip(**SMALL))
    for n in range(1, len(host.evaluations) + 1):
        error = kind("from the network")
        host.fail_at = n, 1, error
        before = host.snapshot()
        with pytest.raises(kind) as raised:
            host.run(host.clip(**SMALL))
        host.fail_at = None
        assert raised.value is error
        assert len(host.evaluations) == n
        assert before.changed(host.snapshot()) <= REQUEST
        assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip("Euler", **SMALL)), euler)
    assert torch.equal(host.run(host.clip(**SMALL)), mixed)


def test_after_an_interrupt_in_any_evaluation_the_host_is_as_before(host):
    still = host.run(host.still("Euler"))
    _, mixed, pairs = run(host)
    for n in range(1, len(pairs)):
        host.on_evaluated[:] = [lambda count, n=n: count == n and host.shared.state.interrupt()]
        latents = host.run(host.clip(**SMALL))
        assert len(host.evaluations) == n
        shown = [evaluation.out for (move, _), evaluation in zip(pairs, host.evaluations)
                 if move.kind == "ordinary" or (move.kind == "go" and move.step == 0)]
        assert torch.equal(latents, shown[-1])
        host.on_evaluated.clear()
        assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip(**SMALL)), mixed)


def test_wrong_input_is_refused_before_the_first_evaluation(any_host):
    still, _ = any_host.run(any_host.still("Euler")), any_host.run(any_host.clip("Euler", **SMALL))
    before = any_host.snapshot()
    with pytest.raises(HTTPException) as refused:
        any_host.run(any_host.clip(options={"gamma_go": 40}, **SMALL))
    assert refused.value.status_code == 422 and "0 to 30" in refused.value.detail
    assert any_host.evaluations == []
    assert before.changed(any_host.snapshot()) <= REQUEST
    assert torch.equal(any_host.run(any_host.still("Euler")), still)


def test_a_schedule_that_rises_again_is_refused(any_host):
    """reForge has one."""
    def rising(steps):
        return torch.tensor([14.0, 9.0, 12.0, 0.0])

    still, _ = any_host.run(any_host.still("Euler")), any_host.run(any_host.clip("Euler", **SMALL))
    with pytest.raises(HTTPException) as refused:
        any_host.run(any_host.clip(sampler_noise_scheduler_override=rising, **SMALL))
    assert refused.value.status_code == 422 and "this schedule type does not suit it" in refused.value.detail
    assert any_host.evaluations == []
    assert torch.equal(any_host.run(any_host.still("Euler")), still)


def test_only_a_schedule_is_called_one(any_host, monkeypatch):
    """What else is wrong, in the image model's prompt say, is said as it is."""
    def damaged(*args):
        raise ValueError("the file is damaged")

    any_host.run(any_host.clip("Euler", **SMALL))
    monkeypatch.setattr(sys.modules["ivmixed.webui.image_model.conds"], "own", damaged)
    with pytest.raises(ValueError, match=r"^the file is damaged$"):
        any_host.run(any_host.clip(options={"image_prompt": "a cat"}, **SMALL))


def test_a_still_is_refused_where_motion_is_asked_for(host):
    with pytest.raises(host.sampler.RefusedError, match=r"model = 'gone\.ckpt' is not there"):
        host.run(host.clip(version="gone.ckpt", **SMALL))
    assert host.evaluations == []
    host.run(host.still())


def test_the_infotext_says_after_how_many_evaluations_it_was_interrupted(host):
    host.on_evaluated.append(lambda number: number == 2 and host.shared.state.interrupt())
    p = host.clip(**SMALL)
    host.run(p)
    assert p.extra_generation_params[NAME] == "interrupted after 2 of 9 evaluations"
