"""On a GPU: all tensors stay there, in the dtype of their network, and no move makes the host wait for it."""
from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import nn
from torch.nn import functional

from ivmixed import Options, Schedule, make_plan, sample_iv_mixed
from ivmixed.motion import Layout, MotionModule, Travel, attach, evaluate_in_windows, uniform_windows
from ivmixed.motion.module import V1, V3
from ivmixed.standalone.denoiser import Denoiser, image_view
from ivmixed.standalone.videocrafter import VideoCrafterUNet

from .device import DEVICE, watched
from .ldm_unet import LdmUNet

FRAMES, SIDE = 6, 8
VIDEO, IMAGE = Schedule.linear(), Schedule.scaled_linear()
HALVES = [torch.float16, torch.bfloat16]


def test_what_makes_the_host_wait_is_noted():
    x = torch.empty(4, 3, device=DEVICE)
    with watched() as seen:
        x.cpu(), torch.zeros(3).to(DEVICE), torch.tensor(3.0, device=DEVICE), x.new_tensor(1.0), x[[0, 1]]
        assert len(seen.waits) == 5
        torch.zeros(3).to(DEVICE, non_blocking=True), torch.zeros(4, 3).copy_(x, non_blocking=True), x.new_full((), 3.0)
        x[:2], x[torch.zeros(2, dtype=torch.int64)], torch.tensor(2.0) * x
        assert len(seen.waits) == 5 and seen.dtypes == {torch.float32}
        for read in (torch.Tensor.item, bool, torch.nonzero):
            with pytest.raises((RuntimeError, NotImplementedError)):
                read(x.sum())
        with pytest.raises(RuntimeError, match="not on the expected device"):
            x + torch.zeros(4, 3)


# --- a clip

SMALL = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16,
         "attention_head_dim": 4, "sample_size": 8}
"""Networks of one level."""


def denoisers(dtype, prediction="epsilon", chunk=None, crafter=False):
    with DEVICE:
        still = UNet2DConditionModel(
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), **SMALL)
        if crafter:
            video = VideoCrafterUNet(
                down_block_types=("CrossAttnDownBlock3D",), up_block_types=("CrossAttnUpBlock3D",), **SMALL)
        else:
            video = UNetMotionModel.from_unet2d(still, MotionAdapter(
                block_out_channels=(8,), motion_layers_per_block=1, motion_num_attention_heads=2,
                motion_norm_num_groups=4))
        uncond, cond = torch.empty(2, 1, 12, 16, dtype=dtype)
    view = still if crafter else image_view(video)
    return (Denoiser(video.to(dtype), VIDEO, prediction, uncond, cond),
            Denoiser(view.to(dtype), IMAGE, prediction, uncond, cond, chunk))


def sampled(steps, options, dtype, solver="euler", **kinds):
    """A clip of so many steps, what the host waited for, and what the networks were given and gave."""
    levels = [VIDEO.timestep_to_sigma(999 * (1 - k / (steps - 1))) for k in range(steps)]
    plan = make_plan(Options(**options), [*levels, 0.0], VIDEO, IMAGE, solver=solver)
    video, image = denoisers(dtype, **kinds)
    passed = set()

    def note(layer, args, kwargs, output):
        passed.update((value.device, value.dtype) for value in (args[0], kwargs["encoder_hidden_states"], output[0]))

    for model in (video, image):
        model.unet.register_forward_hook(note, with_kwargs=True)
    x = torch.empty(FRAMES, 4, SIDE, SIDE, device=DEVICE)
    with watched() as seen:
        clip = sample_iv_mixed(
            video, x, torch.tensor([*levels, 0.0]), {"cond_scale": 7.5}, image_model=image, plan=plan, disable=True,
            on_move=lambda move: (image if move.model == "image" else video).expect(move, plan))
    return clip, seen, passed


@pytest.mark.parametrize("options, kinds, dtype", [
    ({}, {}, torch.float16), ({}, {}, torch.bfloat16), ({}, {"crafter": True}, torch.float16),
    ({"image_size": (96, 96), "guidance_rescale": 0.5}, {"chunk": 4}, torch.float16),
    ({"form": "RR-IV", "finish_percent": 40, "finish_smoothing": 100}, {"prediction": "v_prediction"}, torch.float16),
    ({"image_attention": "neighbours"}, {}, torch.float16), ({"image_attention": "first"}, {}, torch.bfloat16),
    ({"reuse_percent": 50, "reused": "features"}, {"solver": "euler_ancestral"}, torch.float16),
    ({"reuse_percent": 50}, {"solver": "dpmpp_2m_sde"}, torch.float16),
    ({"interval": (0, 0)}, {"solver": "dpmpp_2m"}, torch.float16),
    ({"interval": (0, 0)}, {"solver": "lcm"}, torch.float32),
])
def test_a_clip_stays_on_the_device_and_waits_once(options, kinds, dtype):
    steps = 3 if "solver" in kinds else 2  # the second order of a solver begins with the second of three
    clip, seen, passed = sampled(steps, options, dtype, **kinds)
    assert clip.device == DEVICE and clip.dtype == torch.float32
    assert passed == {(DEVICE, dtype)}
    assert len(seen.waits) == 1, seen.waits  # for the last of the flags that tell a latent that is not finite


# --- built-in motion

def hosts_layers(unet, storage):
    """Layers as hosts have them with weights in fp8: they are cast to the features when they act."""
    for layer in unet.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(storage)
            layer.forward = partial(_cast, layer)
    return unet


def _cast(layer, x):
    weight, bias = (value if value is None else value.to(x.dtype) for value in (layer.weight, layer.bias))
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, layer.stride, layer.padding)


@pytest.mark.parametrize("kind", [V1, V3])
@pytest.mark.parametrize("weights, features, module_dtype", [
    (torch.float16, torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.float32, torch.float16), (torch.float8_e4m3fn, torch.float16, torch.float16),
    (torch.float8_e4m3fn, torch.float32, torch.float32), (torch.float16, torch.float16, torch.float32),
])
def test_motion_is_as_the_features(kind, weights, features, module_dtype):
    widths = (32, 64)
    with DEVICE:
        unet = LdmUNet(UNet2DConditionModel(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            **{**SMALL, "block_out_channels": widths, "norm_num_groups": 32})).to(features)
        module = MotionModule(kind, Layout(widths=widths, layers=1)).to(module_dtype)
    if weights.itemsize == 1:
        hosts_layers(unet, weights)
    behind = set()
    for layer in unet.input_blocks:
        layer.register_forward_hook(lambda layer, args, output: behind.add((output.device, output.dtype)))
    x, context = (torch.empty(2 * FRAMES, *shape, dtype=features, device=DEVICE) for shape in ((4, 8, 8), (5, 16)))
    t = torch.empty(2 * FRAMES, device=DEVICE)
    with torch.no_grad(), watched() as seen, attach(unet, module) as motion:
        def evaluate(rows, length):
            motion.frames = length
            return unet(x[rows], t[rows], context[rows])

        out = evaluate_in_windows(evaluate, x, uniform_windows(1, FRAMES, 4), FRAMES)
    assert motion.acted and seen.waits == []
    assert behind == {(DEVICE, features)} and (out.device, out.dtype, out.shape) == (DEVICE, features, x.shape)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("fuse", ["mean", "last"])
def test_windows_and_travel_wait_for_nothing(dtype, fuse):
    x, prompts = (torch.empty(shape, dtype=dtype, device=DEVICE) for shape in ((40, 4, 8, 8), (2, 77, 16)))
    travel = Travel.parse("0: day\n12: night", 20)
    with watched() as seen:
        out = evaluate_in_windows(lambda rows, length: x[rows], x, uniform_windows(3, 20, 8), 20, fuse)
        blended = travel.blend(prompts, 20, closed=True)
    assert seen.waits == []
    assert (out.dtype, out.device, out.shape) == (dtype, DEVICE, x.shape)
    assert (blended.dtype, blended.device, blended.shape) == (dtype, DEVICE, (20, 77, 16))
