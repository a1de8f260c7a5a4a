"""Whatever goes wrong while a clip is made, wherever: afterwards the host is as before (doubles in tests/host).

A sample of the faults is tried by ``make test``, all of them by ``make test-thorough``.
"""
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from ivmixed.motion import MotionModule

from .host import NAME, loaded
from .host.forge_host import HOSTS, loaded_forge
from .test_webui_motion import MOTION, with_modules

KINDS = (RuntimeError, torch.OutOfMemoryError, ValueError, MemoryError, AssertionError, StopIteration,
         KeyboardInterrupt, SystemExit, GeneratorExit)
CALLBACKS = "cfg_denoiser", "cfg_denoised", "cfg_after_cfg"
SMALL = {"frames": 4, "context": 4, "steps": 3}
EVALUATIONS = 9
OTHER = {"image_checkpoint": "other", "image_prompt": "<lora:glow:0.5>"}
REQUESTS = {
    "AnimateDiff": lambda host: host.clip(version="v1", **SMALL),
    "AnimateDiff, another image model": lambda host: host.clip(options=OTHER, **SMALL),
    "built in": lambda host: built_in(host, NAME, {}),
    "built in, another image model": lambda host: built_in(host, NAME, OTHER),
    "built in, Euler": lambda host: built_in(host, "Euler", {}),
}
LEFT = {
    "mm_animatediff.ad_params", "mm_animatediff.mm", "sd_model.forge_objects",  # the extension's, until its next clip
    "networks.merged", "networks.available_network_aliases",  # the Lora extension's memory
    "state.interrupted", "modules.errors.reports",
}
"""What a request may leave, of others."""


@pytest.fixture(params=["a1111", *HOSTS])
def host(request, tmp_path):
    """A host with motion modules, another checkpoint and a LoRA."""
    with loaded() if request.param == "a1111" else loaded_forge(request.param) as host:
        host.kind = request.param
        if host.kind != "a1111":
            host.base.Block.reads_modifiers = True
        with_modules(host, tmp_path)
        torch.manual_seed(5)
        unet = host.model.model.diffusion_model.state_dict()
        tensors = {f"model.diffusion_model.{key}": value + torch.randn_like(value) for key, value in unet.items()}
        safetensors.torch.save_file({**tensors, "cond_stage_model.transformer.weight": torch.randn(4)},
                                    tmp_path / "other.safetensors")
        host.sd_models.folder = tmp_path
        host.sd_models.list_models()
        host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["other"]
        layer = "diffusion_model_middle_block_0" if host.kind == "a1111" else "diffusion_model.middle_block.0.weight"
        sys.modules["networks"].on_disk.update(glow={layer: torch.randn(4, 1, 1)})
        yield host


def built_in(host, sampler, options):
    p = host.still(sampler, steps=3)
    p.script_args = host.arguments({MOTION: [{"model": "v1.safetensors", "frames": 4}], NAME: [options]})
    return p


def faults(host):
    """(request, place, its how-manieth turn, kind of error), all that there are."""
    kinds = (*KINDS, sys.modules["modules.sd_samplers_common"].InterruptedException)
    for name in REQUESTS:
        turns = 3 if "Euler" in name else EVALUATIONS
        places = [(place, turn) for place in ("network", *CALLBACKS, "store_latent") for turn in range(1, turns + 1)]
        places += [("callback_state", turn) for turn in (1, 2, 3)]
        places += [("module", turn) for turn in (1, 2) if "built in" in name]
        places += [("decoder", 1)] + [("before sampling", 1)] * (host.kind != "a1111")
        yield from ((name, place, turn, kind) for place, turn in places for kind in kinds)


@contextmanager
def fault(host, place, turn, error, monkeypatch):
    """Within the block ``error`` is raised where ``place`` has its ``turn``."""
    count = 0

    def act(*args, **kwargs):
        nonlocal count
        count += 1
        if count == turn:
            raise error

    def before(owner, name):
        own = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **kwargs: (act(), own(*args, **kwargs))[1])

    common = sys.modules["modules.sd_samplers_common"]
    with monkeypatch.context() as patch:
        if place == "network":
            host.fail_at = turn, 1, error
        elif place in CALLBACKS:
            patch.setitem(host.script_callbacks.callback_map, place, [*host.script_callbacks.callback_map[place], act])
        elif place == "store_latent":
            before(common, place)
        elif place == "callback_state":
            before(common.Sampler, place)
        elif place == "decoder":
            before(host.processing, "finished")
        elif place == "module":  # it comes to the device, and goes
            before(MotionModule, "to")
        else:
            script = SimpleNamespace(**{name: lambda *args, **kwargs: None for name in (
                "before_process", "process", "process_batch", "postprocess_batch_list", "postprocess")},
                process_before_every_sampling=act, title=lambda: "another's", args_from=0, args_to=0)
            patch.setattr(host.runner, "alwayson_scripts", [*host.runner.alwayson_scripts, script])
        yield
    host.fail_at = None


def assert_nothing_stays(host, cases, monkeypatch):
    """After each fault the host, its next still and its next clip are as before, to the bit."""
    assert cases
    still, known = host.run(host.still("Euler")), {}
    for (name, place, turn, kind), following in zip(cases, [*cases[1:], (None,) * 4]):
        case = f"{kind.__name__} in {place} {turn} of {name}"
        request = REQUESTS[name]
        if name not in known:
            known[name] = host.run(request(host))
            host.run(host.still("Euler"))
        before = host.snapshot()
        with fault(host, place, turn, kind("a fault"), monkeypatch):
            try:
                host.run(request(host))
                finished = True
            except BaseException:
                finished = False
        allowed = LEFT
        if finished and host.kind == "forge_previous":  # where the host puts its tables back itself
            allowed = LEFT | {f"{part}._buffers{at}" for part in ("table", "sd_model")
                              for at in ("", "[sigmas]", "[log_sigmas]", "[alphas_cumprod]")}
        assert before.changed(host.snapshot()) <= allowed, case
        if host.kind == "a1111":
            assert not host.motion.AnimateDiffMM.mm_injected, case
        else:
            own = host.network, host.model.forge_objects.clip.patcher.model
            assert all(entry.model.model in own for entry in host.model_management.current_loaded_models), case
        assert torch.equal(host.run(host.still("Euler")), still), case
        if (name, place, turn) != following[:3]:
            assert torch.equal(host.run(request(host)), known[name]), case


def test_nothing_stays_after_a_fault(host, monkeypatch):
    sample = [("AnimateDiff", "network", 2, KeyboardInterrupt),
              ("AnimateDiff, another image model", "cfg_after_cfg", 4, SystemExit),
              ("AnimateDiff, another image model", "decoder", 1, torch.OutOfMemoryError),
              ("built in", "callback_state", 2, StopIteration),
              ("built in, another image model", "module", 2, GeneratorExit)]
    assert set(sample) <= set(faults(host))
    assert_nothing_stays(host, sample, monkeypatch)

    # a motion module that cannot leave the device takes no finished clip along, and is read again for the next
    request = REQUESTS["built in"]
    clip = host.run(request(host))
    with fault(host, "module", 2, MemoryError("no room"), monkeypatch):
        assert torch.equal(host.run(request(host)), clip)
    assert any("v1.safetensors could not be kept in memory: MemoryError no room" in line for line in host.log.lines)
    assert torch.equal(host.run(request(host)), clip)


@pytest.mark.thorough
@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_stays_after_any_fault(host, monkeypatch, name):
    assert_nothing_stays(host, [case for case in faults(host) if case[0] == name], monkeypatch)
