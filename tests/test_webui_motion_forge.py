"""Built-in motion on the Forge family, against doubles of its four hosts (tests/host)."""
import pytest
import torch

from ivmixed import Options, Schedule, make_plan
from ivmixed.motion import attach, uniform_windows
from ivmixed.motion.noise import order

from .device import Reads
from .host import NAME
from .host.forge_host import HOSTS, NEO, across, loaded_forge
from .test_webui_motion import MOTION, with_modules

V3 = "v3.safetensors"


@pytest.fixture(params=HOSTS)
def host(request, tmp_path):
    with loaded_forge(request.param) as host:
        host.shared.opts.skip_early_cond = 0.0 if request.param != "classic" else -1.0
        yield with_modules(host, tmp_path)


def request_of(host, sampler="Euler", **motion):
    p = host.still(sampler, steps=3)
    p.script_args = host.arguments({MOTION: [{"model": V3, "frames": 4, **motion}]})
    return p


def moved(host, call, name, frames):
    """What the network gives with the module in it for what a call was asked."""
    unet = host.network.diffusion_model
    with torch.no_grad(), attach(unet, host.modules[name]) as motion:
        motion.frames = frames
        return unet(call.x, call.t, call.context)


@pytest.mark.parametrize("host, name, fits", across(
    [(V3, True)], [("v1.safetensors", True), ("v2.safetensors", False), ("v2.safetensors", True),
                   ("v1.safetensors", False), (V3, False)]), indirect=["host"])
def test_a_plain_sampler_has_motion_in_all_evaluations(host, name, fits):
    host.shared.fits_in_memory = fits
    host.run(request_of(host, model=name))
    assert host.levels[0][:3] == pytest.approx(
        [Schedule.linear().timestep_to_sigma(t) for t in (999, 499.5, 0)], rel=1e-4)
    for evaluation in host.evaluations:
        assert [len(call.x) for call in evaluation.calls] == ([8] if fits else [4, 4])
        for call in evaluation.calls:
            assert call.t.tolist() == pytest.approx(
                [Schedule.linear().sigma_to_timestep(evaluation.sigma[0].item())] * len(call.t), abs=0.51)
            assert torch.equal(call.out, moved(host, call, name, 4))
            assert not torch.allclose(call.out, host.unet(call.x, call.t, call.context))


def test_a_long_clip_is_evaluated_in_windows(host):
    host.run(request_of(host, frames=6, context=4))
    for evaluation in host.evaluations:
        windows = uniform_windows(evaluation.step, 6, 4)
        assert len(evaluation.calls) == len(windows) > 1
        scaled = host.scaled(torch.cat([evaluation.x] * 2), torch.cat([evaluation.sigma] * 2))
        for call, window in zip(evaluation.calls, windows):
            torch.testing.assert_close(call.x, scaled[window + [frame + 6 for frame in window]])
            assert torch.equal(call.out, moved(host, call, V3, 4))


@pytest.mark.parametrize("host, options", across(
    [({},)], [({"reuse_percent": 50},), ({"reused": "features", "reuse_percent": 50},)]), indirect=["host"])
def test_no_move_reads_a_tensor(host, options):
    """On a GPU that would make the host wait: what is read is read before the first move or after the last."""
    reads = {}
    for steps in (3, 5):
        p = host.still(NAME, steps=steps)
        p.script_args = host.arguments({MOTION: [{"model": V3, "frames": 6, "context": 4}], NAME: [options]})
        with Reads() as seen:
            host.run(p)
        reads[steps] = seen.seen
    assert reads[3] == reads[5] != []


@pytest.mark.parametrize("host, size, fits", across(
    [({"frames": 9, "context": 4}, True)], [({}, True), ({"frames": 8, "context": 4}, False)]), indirect=["host"])
def test_iv_mixed_takes_it_as_its_motion(host, size, fits):
    host.shared.fits_in_memory = fits
    p = request_of(host, NAME, **size)
    host.run(p)
    linear = ((1 - (abar := host.modules[V3].kind.alphas_cumprod())) / abar).sqrt()
    plan = make_plan(Options(), host.levels[0], *(
        Schedule.from_sigmas(table.tolist()) for table in (linear, host.own_sigmas())))
    assert len(host.evaluations) == plan.evaluations == 9
    tables = {"video": Schedule.from_sigmas(linear.tolist()), "image": Schedule.from_sigmas(host.own_sigmas().tolist())}
    for move, evaluation in zip(plan.moves, host.evaluations):
        for call in evaluation.calls:
            assert call.t.tolist() == pytest.approx(
                [tables[move.model].sigma_to_timestep(move.sigma)] * len(call.t), abs=0.51)
            expected = host.unet(call.x, call.t, call.context)
            if move.model == "video":
                expected = moved(host, call, V3, 4)
            assert torch.equal(call.out, expected)
            assert len(call.x) <= (8 if fits else 4), "no more rows at a time than the video model takes"
    assert p.extra_generation_params[NAME] == "9 evaluations"


@pytest.mark.parametrize("host, sampler, error", across(
    [(NAME, RuntimeError("broken")), ("Euler", None)],
    [(NAME, None), (NAME, KeyboardInterrupt()), ("Euler", RuntimeError("broken")), ("Euler", KeyboardInterrupt())],
), indirect=["host"])
def test_nothing_stays(host, sampler, error):
    before = host.run(host.still("Euler"))
    snapshot = host.snapshot()
    if error is None:
        host.run(request_of(host, sampler, frames=6, context=4))
    else:
        host.fail_at = (2, 1, error)
        with pytest.raises(type(error)):
            host.run(request_of(host, sampler, frames=6, context=4))
        host.fail_at = None
    left = {path for path in snapshot.changed(host.snapshot()) if "forge_objects" not in path}
    assert left == set()
    assert torch.equal(host.run(host.still("Euler")), before)


@pytest.mark.parametrize("host, sampler", across([(NAME,)], [("Euler",)]), indirect=["host"])
def test_two_motions_at_once_are_refused(host, sampler):
    still = host.run(host.still("Euler"))
    p = host.clip(sampler, frames=4, context=4, steps=3)
    mine = host.arguments({MOTION: [{"model": V3, "frames": 4}]})
    p.script_args = tuple(a if a is not None and a is not False else b for a, b in zip(p.script_args, mine))
    with pytest.raises(host.sampler.RefusedError, match="cannot be used with AnimateDiff"):
        host.run(p)
    assert torch.equal(host.run(host.still("Euler")), still)
    assert host.run(request_of(host)).shape[0] == 4


def test_what_rows_are_is_cut_with_them(host):
    """Forge main tells patches which rows are cond and which uncond."""
    clip = host.built_in.BuiltinClip(request_of(host), host.motion_panel.from_arguments([{"model": V3, "frames": 6,
                                                                                   "context": 4}]))
    seen = []

    def network(x, t, c_crossattn, control, transformer_options):
        seen.append((x[:, 0, 0, 0].tolist(), control, transformer_options))
        return x

    x = torch.arange(12.0).view(12, 1, 1, 1)
    with attach(host.network.diffusion_model, host.modules[V3]) as clip.motion:
        from ivmixed.webui.builtin import forge

        out = forge._in_windows(clip, network)(
            x, x[:, 0, 0, 0], c_crossattn=x, control={"middle": [x, None]}, transformer_options={
                "cond_indices": list(range(6, 12)), "uncond_indices": list(range(6)), "cond_mark": x, "patch": print})
    assert torch.equal(out, x)
    for rows, control, options in seen:
        assert control["middle"][0].flatten().tolist() == options["cond_mark"].flatten().tolist() == rows
        assert control["middle"][1] is None and options["patch"] is print
        assert [rows[index] >= 6 for index in options["cond_indices"]] == [True] * 4
        assert [rows[index] >= 6 for index in options["uncond_indices"]] == [False] * 4


def test_beside_the_hosts_scripts(host):
    """As on AUTOMATIC1111, see test_webui_selectable."""
    motion = {"formats": ["GIF"]}
    result = host.answer(request_of(host, **motion), "Prompts from file or textbox", "a\nb", None)
    assert [image[:6] for image in result.images] == ["R0lGOD"] * 2  # GIF in base64
    wrong = (request_of(host, NAME, **motion), "[IV-mixed] gamma go", "31"), (request_of(host, model="x"), "Steps", "2")
    for p, label, values in wrong:
        with pytest.raises(host.sampler.RefusedError):
            host.answer(p, "X/Y/Z plot", label, values)
    p = request_of(host)
    p.init_images = [None] * 6
    with pytest.raises(host.sampler.RefusedError, match="cannot be used with 6 init_images"):
        host.answer(p)


@pytest.mark.parametrize("host, fields", across(
    [({"enable_hr": True, "hr_checkpoint_name": "{}"},)], [({"refiner_checkpoint": "{}"},)]), indirect=["host"])
def test_one_checkpoint_throughout(host, tmp_path, fields):
    host.sd_models.folder = tmp_path
    for name in ("own", "other"):
        (tmp_path / f"{name}.safetensors").touch()
    host.sd_models.list_models()
    host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
    host.sd_models.list_models()
    clips = []
    for name in ("None", "own", "other"):
        p = request_of(host, NAME)
        vars(p).update({key: value.format(name) if isinstance(value, str) else value for key, value in fields.items()})
        if name == "None" and "enable_hr" in fields:
            p.hr_checkpoint_name = None
        if name == "other":
            with pytest.raises(host.sampler.RefusedError, match=r"= 'other' cannot be used with a clip.* none, or own"):
                host.answer(p)
        else:
            clips.append(host.run(p))
    assert torch.equal(*clips)


@pytest.mark.parametrize("kind", ["forge_main", NEO])
@pytest.mark.parametrize("chosen, refused", [
    (["Use same choices"], False), (["/models/vae/own.safetensors"], False), (["other.safetensors"], True), ([], True)])
def test_a_hires_pass_with_other_modules_is_refused(tmp_path, kind, chosen, refused):
    """The host would load the checkpoint again for it, without motion."""
    with loaded_forge(kind) as host:
        with_modules(host, tmp_path)
        host.shared.opts.data["forge_additional_modules"] = ["/elsewhere/own.safetensors"]
        p = request_of(host)
        p.enable_hr, p.hr_additional_modules = True, chosen
        if refused:
            with pytest.raises(host.sampler.RefusedError, match=r"hr_additional_modules = .*one VAE and text encoder"):
                host.answer(p)
            assert host.evaluations == []
        else:
            host.run(p)
            assert len(host.evaluations) == 6


def test_strength_noise_and_free_init(host):
    """As in AUTOMATIC1111, where their numbers are tested."""
    plain = host.run(request_of(host, frames=6, context=4))
    assert torch.equal(host.run(request_of(host, frames=6, context=4, motion_strength_frames="0=1 5=1")), plain)
    host.run(request_of(host, frames=6, context=4, motion_strength=0))
    for evaluation in host.evaluations:
        for call in evaluation.calls:
            assert torch.equal(call.out, host.network.diffusion_model(call.x, call.t, call.context))
    p = request_of(host, frames=6, context=4, noise="freenoise", free_init=2)
    host.run(p)
    rows = order("freenoise", 6, 4, 3, torch.Generator().manual_seed(p.seeds[0]))
    first, second = host.evaluations[0], host.evaluations[3]
    torch.testing.assert_close(first.x, p.noise(6)[rows] * first.sigma[:, None, None, None])
    assert len(host.evaluations) == 6 and torch.equal(second.sigma, first.sigma)
    assert (second.x - first.x).abs().max() > 0.1
    assert torch.equal(host.run(request_of(host, frames=6, context=4)), plain)
