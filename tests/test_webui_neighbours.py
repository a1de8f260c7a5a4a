"""The image model's self-attention over other frames in the WebUIs, against doubles of the hosts (tests/host)."""
from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from fastapi import HTTPException

from ivmixed.neighbours import attending

from .attention import give_attention
from .host import NAME, loaded
from .host.forge_host import HOSTS, loaded_forge
from .test_webui_motion import request as with_built_in
from .test_webui_motion import with_modules

EVERY = ("a1111", *HOSTS)


@contextmanager
def attentive(kind):
    """A host whose UNet has self-attention."""
    with loaded() if kind == "a1111" else loaded_forge(kind) as host:
        give_attention(network(host))
        yield host


def network(host):
    return host.model.model.diffusion_model if hasattr(host.model, "model") else host.network.diffusion_model


def hooks(host):
    return [name for name, layer in network(host).named_modules() if layer._forward_hooks or layer._forward_pre_hooks]


def assert_attends(host, sees, frames):
    """Every call of the plain UNet is that of a UNet whose attention sees these frames, the video model's of none."""
    image = 0
    for evaluation in host.evaluations:
        for call in evaluation.calls:
            with attending(network(host), sees, frames):
                same = torch.equal(call.out, host.unet(call.x, call.t, call.context))
            own = torch.equal(call.out, host.unet(call.x, call.t, call.context))
            assert not own
            image += same
    assert image and not hooks(host)
    return image


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("sees", ["neighbours", "first"])
def test_image_evaluations_see_other_frames(kind, sees):
    """With AnimateDiff's motion; on reForge as if it had the call that it lacks."""
    with attentive(kind) as host:
        if kind != "a1111":
            host.base.Block.reads_modifiers = True
        options = {"interval": [0, 0], "finish_percent": 50, "finish_by": "steps"}
        sizes = {"frames": 4, "context": 4, "steps": 4}
        own = host.run(host.clip(options=options, **sizes))
        p = host.clip(options={**options, "image_attention": sees}, **sizes)
        seen = host.run(p)
        assert p.extra_generation_params["IV-mixed image attention"] == sees
        assert assert_attends(host, sees, 4) == 2
        assert (seen - own).abs().max() > 1e-4
        assert torch.equal(host.run(host.clip(options=options, **sizes)), own)


@pytest.mark.parametrize("together", [True, False])
def test_prompt_and_negative_prompt_apart(together):
    with attentive("a1111") as host:
        host.shared.opts.batch_cond_uncond = together
        host.run(host.clip(options={"image_attention": "neighbours"}, frames=4, context=4, steps=3))
        assert assert_attends(host, "neighbours", 4)


@pytest.mark.parametrize("kind", EVERY)
def test_a_clip_longer_than_the_context_is_refused(kind):
    with attentive(kind) as host:
        p = host.clip(options={"image_attention": "first"}, frames=6, context=4, steps=3)
        with pytest.raises(HTTPException, match="'first' cannot be used with 4 of 6 frames at once") as refused:
            host.run(p)
        assert refused.value.status_code == 422 and not host.evaluations


def test_and_in_the_prompt_is_refused_where_it_makes_rows_between_the_frames():
    with attentive("a1111") as host:
        p = host.clip(options={"image_attention": "first", "image_prompt": "a castle AND a bird"}, frames=4, context=4)
        with pytest.raises(HTTPException, match="AND puts rows between the frames"):
            host.run(p)
        assert not host.evaluations


def test_built_in_motion(tmp_path):
    with attentive("a1111") as host:
        with_modules(host, tmp_path)
        options = {"image_attention": "neighbours", "interval": [0, 0], "finish_percent": 50, "finish_by": "steps"}
        host.run(with_built_in(host, NAME, options=options))
        assert assert_attends(host, "neighbours", 4) == 2
