"""The deep features of a UNet serve another evaluation."""
from __future__ import annotations

import pytest
import torch

from ivmixed.features import DeepFeatures
from ivmixed.standalone.denoiser import deep_layers, image_view
from tests import tiny


def video():
    return tiny.animatediff().unet


def image():
    return image_view(video())


def modelscope():
    return tiny.modelscope().unet


def question(unet, seed, rows=2):
    """What a UNet is asked; 3 frames a clip."""
    g = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim
    shape = (rows, 4, 8, 8) if type(unet).__name__ == "UNet2DConditionModel" else (rows, 4, 3, 8, 8)
    words = rows * 3 if type(unet).__name__ == "UNetMotionModel" else rows
    context = torch.randn(words, 5, width if isinstance(width, int) else width[0], generator=g)
    return torch.randn(shape, generator=g), torch.randint(1000, (), generator=g), context


@torch.no_grad()
def ask(unet, seed, rows=2):
    return unet(*question(unet, seed, rows), return_dict=False)[0]


@pytest.mark.parametrize("make", [video, image, modelscope])
def test_the_same_question_has_the_same_answer(make):
    unet = make()
    features = DeepFeatures(deep_layers(unet))
    with features.recorded():
        whole = ask(unet, 0)
    assert torch.equal(whole, ask(unet, 0))
    for _ in range(2):
        with features.replayed():
            assert torch.equal(ask(unet, 0), whole)


@pytest.mark.parametrize("make", [video, image, modelscope])
def test_another_question_reaches_the_outer_layers_alone(make):
    """By hand: the first convolution, the last layer of the last block on the features kept, and the output layers."""
    unet = make()
    features = DeepFeatures(deep_layers(unet))
    last = unet.up_blocks[-1].resnets[-1]
    read = []

    def keep(module, args, kwargs):
        read.append(args[0] if args else kwargs["input_tensor"])

    hook = last.register_forward_pre_hook(keep, with_kwargs=True)
    with features.recorded():
        ask(unet, 0)
    with features.replayed():
        shallow = ask(unet, 1)
    other = ask(unet, 1)
    hook.remove()
    deep, skip = (rows.split(rows.shape[1] // 2, dim=1) for rows in (read[0], read[2]))
    torch.testing.assert_close(read[1], torch.cat([deep[0], skip[1]], dim=1))

    def put_in(module, args, kwargs):
        return ((read[1], *args[1:]), kwargs) if args else (args, {**kwargs, "input_tensor": read[1]})

    hook = last.register_forward_pre_hook(put_in, with_kwargs=True)
    torch.testing.assert_close(ask(unet, 1), shallow)
    hook.remove()
    assert (shallow - other).abs().max() > 1e-3


@pytest.mark.parametrize("make", [video, image, modelscope])
def test_an_evaluation_of_several_calls(make):
    unet = make()
    features = DeepFeatures(deep_layers(unet))
    calls = (0, 2), (1, 1), (2, 2)
    with features.recorded():
        whole = [ask(unet, *call) for call in calls]
    with features.replayed():
        assert all(torch.equal(ask(unet, *call), out) for call, out in zip(calls, whole))


def test_deep_layers_compute_nothing_and_keep_little():
    unet = video()
    layers = deep_layers(unet)
    features = DeepFeatures(layers)
    with features.recorded():
        ask(unet, 0)
    outer = sum(p.numel() for p in unet.parameters()) - sum(p.numel() for layer in layers for p in layer.parameters())
    assert outer < 0.25 * sum(p.numel() for p in unet.parameters())
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data.fill_(torch.nan)
    with features.replayed():
        assert ask(unet, 1).isfinite().all()

    def memory(output):
        return (output.untyped_storage().nbytes() if isinstance(output, torch.Tensor)
                else sum(memory(part) for part in output))

    last = features._outputs[-1]
    assert memory(features._outputs) < 1.01 * memory(last)


@pytest.mark.parametrize("block", ["recorded", "replayed"])
def test_the_network_is_as_before(block):
    unet = video()
    before = ask(unet, 3)
    features = DeepFeatures(deep_layers(unet))
    with features.recorded():
        ask(unet, 0)
    with pytest.raises(KeyboardInterrupt), getattr(features, block)():
        ask(unet, 1)
        raise KeyboardInterrupt
    assert torch.equal(ask(unet, 3), before)
    assert not any("forward" in vars(module) for module in unet.modules())
