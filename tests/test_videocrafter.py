"""VideoCrafter2 without a WebUI: its network and sampler against a recording of the original ones, its files."""
from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from ivmixed import Options, Schedule, make_plan, sample_iv_mixed
from ivmixed.standalone import videocrafter

from . import videocrafter as made

VECTORS = Path(__file__).parent / "vectors" / "videocrafter"
TRUE, PLAIN = Schedule.videocrafter2(), Schedule.scaled_linear()
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def recorded():
    return made.Recorded(VECTORS / "unet_a")


# --- the recording

def test_the_network_answers_as_the_original(recorded):
    differences = recorded.eps()
    assert len(differences) == 4 and max(differences.values()) < TOLERANCE
    with torch.no_grad():  # what it is told of the frames a second matters
        other = recorded.unet(recorded.tensors["x"], torch.tensor(501), recorded.tensors["cond"], fps=12)[0]
    assert (other - recorded.tensors["eps.501"]).abs().max() > 1e-2


def test_the_original_sampler_is_euler_on_the_true_table(recorded):
    """And not on the table without the scale, which the method's released code takes."""
    differences, _ = recorded.ddim(TRUE)
    assert len(differences) == 6 and max(differences.values()) < TOLERANCE
    wrong, _ = recorded.ddim(PLAIN, first=2, end=3)  # from 401 to 201, where the scale is no longer constant
    assert wrong["ddim.03.input"] > 0.3


@pytest.mark.parametrize("start, end", [(601, 401), (301, 201), (21, 1), (1, 0)])
def test_ddim_with_eta_1_is_the_original_step(start, end):
    """``p_sample_ddim`` of ``lvdm/models/samplers/ddim.py``, with what it calls ``sigma_t`` for eta 1."""
    generator = torch.Generator().manual_seed(0)
    x, eps, noise = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(0)
    scale = torch.cat([torch.linspace(1, 0.7, 400, dtype=torch.float64), torch.full((600,), 0.7, dtype=torch.float64)])
    a, a_prev = abar[start], abar[end]
    sigma = ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt() / scale[start]
    expected = a_prev.sqrt() * scale[end] * x0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise

    class Fixed:
        schedule = TRUE

        def __call__(self, latent, level, cond_scale=1.0):
            return latent - level.view(-1, 1, 1, 1) * eps

    levels = torch.tensor([TRUE.sigmas[start], TRUE.sigmas[end]], dtype=torch.float64)
    plan = make_plan(Options(interval=(0, 0)), levels, TRUE, solver="euler_ancestral")
    after = sample_iv_mixed(Fixed(), x * TRUE.input_norm(float(levels[0])), levels, plan=plan, disable=True,
                            noise_sampler=lambda *levels: noise)
    torch.testing.assert_close(after / TRUE.input_norm(float(levels[1])), expected, rtol=1e-9, atol=1e-9)


# --- the text encoder

def penultimate(tensors, ids, heads):
    """OpenCLIP's text transformer as VideoCrafter asks it: without the last layer, then the final norm."""
    own = {name.removeprefix("cond_stage_model.model."): tensor.float() for name, tensor in tensors.items()}
    width = own["ln_final.weight"].shape[0]
    x = own["token_embedding.weight"][ids] + own["positional_embedding"]
    mask = torch.full((ids.shape[1],) * 2, -math.inf).triu(1)
    layers = {int(name.split(".")[2]) for name in own if "resblocks" in name}
    for number in range(max(layers)):
        layer = {name.removeprefix(f"transformer.resblocks.{number}."): tensor for name, tensor in own.items()}
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        attention.load_state_dict({name.removeprefix("attn."): tensor for name, tensor in layer.items()
                                   if name.startswith("attn.")})

        def of(name, value, layer=layer):
            return functional.linear(value, layer[f"{name}.weight"], layer[f"{name}.bias"])

        y = functional.layer_norm(x, (width,), layer["ln_1.weight"], layer["ln_1.bias"])
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = functional.layer_norm(x, (width,), layer["ln_2.weight"], layer["ln_2.bias"])
        x = x + of("mlp.c_proj", functional.gelu(of("mlp.c_fc", y)))
    return functional.layer_norm(x, (width,), own["ln_final.weight"], own["ln_final.bias"])


@torch.no_grad()
def test_the_text_encoder_is_openclips_last_layer_but_one():
    tensors = made.random(made.text_shapes(128, layers=4, words=300, positions=9), seed=5, dtype=torch.float32)
    ids = torch.tensor([[298, 5, 17, 299, 0, 0, 0, 0, 0], [298, 299, 0, 0, 0, 0, 0, 0, 0]])
    model = videocrafter.load_text_encoder(tensors, torch.float32)
    expected = penultimate(tensors, ids, heads=2)
    torch.testing.assert_close(model(ids)[0], expected, rtol=1e-5, atol=1e-5)
    fewer = {name: tensor for name, tensor in tensors.items() if ".resblocks.3." not in name}
    assert (penultimate(fewer, ids, heads=2) - expected).abs().max() > 0.1
