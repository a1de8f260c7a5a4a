"""Forge Neo: told from Forge main, and what its loader notes of a checkpoint stays that of the loaded one."""
import copy
import sys

import pytest
import safetensors.torch
import torch
from fastapi import HTTPException

from ivmixed.patch import replaced

from .host import NAME
from .host.forge_host import NEO, loaded_forge
from .test_webui_motion import request, with_modules

CLIP = {"frames": 4, "context": 4, "steps": 3}


def what_is_noted(noted):
    return {name: getattr(noted, name) for name in ("kontext", "ref_latents", "context_handler")}


@pytest.fixture
def host(tmp_path):
    with loaded_forge(NEO) as host:
        for name in ("own", "kontext of mine"):
            tensors = {f"model.diffusion_model.{key}": value + (name != "own")
                       for key, value in host.network.diffusion_model.state_dict().items()}
            tensors["cond_stage_model.transformer.weight"] = torch.ones(4)
            safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
        host.sd_models.folder = tmp_path
        host.sd_models.list_models()
        host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
        yield host


def test_it_is_told_by_a_module_of_its_own(host):
    assert type(host.module("hosts").find()).__module__ == "ivmixed.webui.hosts.forge.neo"


@pytest.mark.parametrize("loads", ["well", "not at all"])
def test_the_image_models_checkpoint_leaves_what_is_noted_of_the_loaded_one(host, monkeypatch, loads):
    noted = sys.modules["backend.args"].dynamic_args
    noted.ref_latents.append("of the loaded one")
    noted.context_handler = "of the loaded one"
    latents, before = noted.ref_latents, copy.deepcopy(what_is_noted(noted))
    plain = host.run(host.clip("Euler", **CLIP))
    p = host.clip(options={"image_checkpoint": "kontext of mine"}, **CLIP)
    if loads == "well":
        assert (host.run(p) - plain).abs().max() > 1e-3
    else:
        monkeypatch.setattr(sys.modules["backend.loader"].SdModel, "from_tensors",
                            classmethod(lambda cls, tensors: {}["weight"]))
        with pytest.raises(HTTPException, match="cannot be loaded"):
            host.run(p)
        monkeypatch.undo()
    assert what_is_noted(noted) == before
    assert noted.ref_latents is latents
    assert torch.equal(host.run(host.clip("Euler", **CLIP)), plain)


def test_built_in_motion_acts_and_is_gone(host, tmp_path):
    with_modules(host, tmp_path)
    still = host.run(host.still("Euler"))
    clip = host.run(request(host, NAME, options={}))
    assert len(host.evaluations) == 9
    assert (clip - host.run(request(host))).abs().max() > 1e-3
    assert torch.equal(host.run(host.still("Euler")), still)


def test_motion_acts_in_a_network_that_the_host_compiles(host, tmp_path):
    with_modules(host, tmp_path)
    network, expected = host.network, host.run(request(host))
    own, apply_model = network.diffusion_model, network.apply_model

    def compiled(*args, **kwargs):  # as its script for torch.compile does it, which needs Triton
        network.diffusion_model = torch.compile(own, backend="eager", dynamic=True)
        try:
            return apply_model(*args, **kwargs)
        finally:
            network.diffusion_model = own

    with replaced(network, "apply_model", compiled):
        still = host.run(host.still("Euler", batch_size=4))  # of as many rows as the clip
        assert torch.equal(host.run(request(host)), expected)
        assert torch.equal(host.run(host.still("Euler", batch_size=4)), still)
