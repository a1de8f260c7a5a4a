"""The temporal transformers, alone and in a whole UNet, against diffusers' with the same random weights.

diffusers normalises the frames of a clip together before each temporal transformer, which AnimateDiff does not: it is
compared as it is with ``as_diffusers``, and with its norm taken frame by frame with what is the default here.
"""
import math

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional
from torch.nn.attention import SDPBackend

diffusers = pytest.importorskip("diffusers")

from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D  # noqa: E402

from ivmixed.motion import Layout, MotionError, MotionModule, attach, load  # noqa: E402
from ivmixed.motion import module as network  # noqa: E402
from ivmixed.motion.module import (  # noqa: E402
    V3,
    TemporalAttention,
    TemporalTransformer,
    depth_to_frames,
    frames_to_depth,
    sinusoids,
)

from .layouts import motion_shapes, random, saved  # noqa: E402
from .ldm_unet import LdmUNet  # noqa: E402

WIDE = (32, 64, 64, 64)
"""The narrowest that 32 groups and 8 heads allow: a file does not say these."""


class PerFrame(nn.Module):
    """diffusers' norm over (sets, channels, frames, height, width), taken for each frame by itself."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return torch.stack([self.norm(frame) for frame in x.unbind(2)], dim=2)


class Spanning(nn.Module):
    """diffusers' norm over (sets x frames, channels, height, width), taken for the frames of a clip together."""

    def __init__(self, norm, frames):
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, x):
        clips = [clip.permute(1, 0, 2, 3).flatten(1)[None] for clip in x.split(self.frames)]
        normed = [self.norm(clip)[0].view(x.shape[1], self.frames, *x.shape[2:]) for clip in clips]
        return torch.cat([clip.permute(1, 0, 2, 3) for clip in normed])


def far(a, b):
    """The largest difference, in units of the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def randomise(model, seed):
    """Weights that keep activations in range and leave no layer idle."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
        parameter.data = noise * scale + (parameter.ndim == 1)
    return model.eval().requires_grad_(False)


# --- motion strength

def test_strength_is_a_factor_on_what_is_added():
    ours, _ = pair(16, heads=2, groups=4)
    x = torch.randn(8, 16, 3, 2, generator=torch.Generator().manual_seed(0))
    added = ours(x, 4) - x
    strength = torch.tensor([0.0, 0.5, 1.0, 2.0])
    expected = x + added * strength.repeat(2)[:, None, None, None]
    torch.testing.assert_close(ours(x, 4, strength), expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    assert torch.equal(ours(x, 4, strength)[[0, 4]], x[[0, 4]])
    assert torch.equal(ours(x, 4, torch.ones(4)), ours(x, 4))


def test_an_attention_scale_of_zero_looks_at_all_frames_alike():
    attention = pair(16, heads=2, groups=4)[0].transformer_blocks[0].attention_blocks[0]
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    made = attention(x, 0.0)
    torch.testing.assert_close(made, made.mean(1, keepdim=True).expand_as(made), rtol=0, atol=1e-6)
    assert (attention(x) - made).abs().max() > 1e-3


# --- one temporal transformer

def pair(width, positions=32, per_frame=True, **layout):
    """Ours and diffusers' with the same weights."""
    layout = Layout(positions=positions, norm_over_frames=not per_frame, **layout)
    ours = randomise(TemporalTransformer(width, layout), seed=width)
    theirs = AnimateDiffTransformer3D(
        num_attention_heads=layout.heads, attention_head_dim=width // layout.heads, in_channels=width,
        norm_num_groups=layout.groups, positional_embeddings="sinusoidal", num_positional_embeddings=positions)
    state = convert_animatediff_checkpoint_to_diffusers(ours.state_dict())
    missing, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown and all(name.endswith(".pe") for name in missing)
    if per_frame:
        theirs.norm = PerFrame(theirs.norm)
    return ours, theirs.eval().requires_grad_(False)


@pytest.mark.parametrize("width, frames, heads, groups, per_frame", [
    (8, 1, 2, 4, True), (16, 5, 4, 4, False), (64, 24, 8, 32, True), (64, 24, 8, 32, False), (320, 16, 8, 32, True),
    (640, 8, 8, 32, False)])
def test_a_temporal_transformer_is_that_of_diffusers(width, frames, heads, groups, per_frame):
    ours, theirs = pair(width, per_frame=per_frame, heads=heads, groups=groups)
    x = torch.randn(2 * frames, width, 4, 3, generator=torch.Generator().manual_seed(frames))
    made, expected = ours(x, frames), theirs(x, num_frames=frames)
    assert far(made, x) > 0.1
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_the_norm_over_a_clip_is_another_than_that_of_each_frame():
    x = torch.randn(6, 16, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None, None, None]
    alone, shared = (pair(16, per_frame=per_frame, heads=2, groups=4)[0](x, 6) for per_frame in (True, False))
    assert far(alone, shared) > 0.05


def test_frames_of_one_set_do_not_see_those_of_another():
    ours, _ = pair(16, heads=2, groups=4)
    x = torch.randn(8, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x, 4)[4:], ours(x[4:], 4), rtol=0, atol=1e-6)


def test_frames_are_numbered():
    ours, _ = pair(16, heads=2, groups=4)
    x = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    made = ours(x, 4)
    assert all(far(made[0], made[frame]) > 1e-3 for frame in (1, 2, 3))


def test_the_position_table_is_that_of_diffusers():
    theirs = pair(320, positions=64)[1].transformer_blocks[0].pos_embed.pe
    torch.testing.assert_close(sinusoids(64, 320), theirs, rtol=0, atol=1e-6)


def test_many_pixels_are_attended_to_in_parts(monkeypatch):
    ours, _ = pair(16, heads=2, groups=4)
    x = torch.randn(6, 16, 5, 3, generator=torch.Generator().manual_seed(0))
    whole = ours(x, 3)
    calls = []
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention",
                        lambda q, k, v, **more: calls.append(len(q)) or attend(q, k, v, **more))
    monkeypatch.setattr(network, "ATTENTION_COLUMNS", 7)
    torch.testing.assert_close(ours(x, 3), whole, rtol=0, atol=1e-6)
    assert calls == [*[7] * 4, 2] * 2  # 2 sets x 15 pixels


@pytest.mark.parametrize("width, scale", [(320, 1.0), (320, 0.5), (640, 1.0), (1280, 1.0), (1280, 1.5)])
def test_attention_is_its_formula_in_a_fused_kernel(width, scale, monkeypatch):
    """softmax(scale q k^T / sqrt(d)) v of numbered frames; torch says which kernel it takes."""
    attention = randomise(TemporalAttention(width, Layout()), seed=width)
    x = torch.randn(6, 16, width, generator=torch.Generator().manual_seed(0))
    choices = []
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention",
        lambda *parts, **more: choices.append(torch._fused_sdp_choice(*parts, **more)) or attend(*parts, **more))
    made = attention(x, scale)
    assert choices == [SDPBackend.FLASH_ATTENTION.value]
    seen = x + sinusoids(32, width)[:, :16]
    q, k, v = ((seen @ layer.weight.T).unflatten(-1, (8, -1)).movedim(2, 1)
               for layer in (attention.to_q, attention.to_k, attention.to_v))
    heads = ((q @ k.mT) * scale / math.sqrt(width // 8)).softmax(-1) @ v
    out = attention.to_out[0]
    expected = heads.movedim(1, 2).flatten(2) @ out.weight.T + out.bias
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_of_the_features_stays(layout):
    x = torch.randn(8, 16, 4, 3, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    assert pair(16, heads=2, groups=4)[0](x, 4).stride() == x.stride()


@pytest.mark.parametrize("weights, given", [
    (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_the_dtype_of_the_features_stays(weights, given):
    ours, theirs = pair(64)
    x = torch.randn(8, 64, 4, 4, generator=torch.Generator().manual_seed(0)).to(given)
    made = ours.to(weights)(x, 4)
    assert made.dtype == given
    assert far(made.float(), theirs(x.float(), num_frames=4)) < 0.05


@pytest.mark.parametrize("given", [torch.float16, torch.float32])
def test_under_autocast_only_the_norms_are_in_float32(given, monkeypatch):
    """AUTOMATIC1111's default on CUDA. CUDA's autocast has the norms in float32; the CPU's leaves them as they are."""
    ours, theirs = pair(64)
    x = torch.randn(8, 64, 4, 4, generator=torch.Generator().manual_seed(0)).to(given)
    expected = theirs(x.float(), num_frames=4)

    def in_float32(norm):
        return lambda x, shape, weight, bias, eps: norm(x.float(), shape, weight.float(), bias.float(), eps)

    for name in ("group_norm", "layer_norm"):
        monkeypatch.setattr(functional, name, in_float32(getattr(functional, name)))
    seen, normed = set(), set()
    for layer in ours.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda layer, args: seen.add(args[0].dtype))
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            layer.register_forward_hook(lambda layer, args, output: normed.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.float16):
        made = ours.half()(x, 4)
    assert normed == {torch.float32} and seen == {torch.float16}
    assert made.dtype == given
    assert far(made.float(), expected) < 0.01


def test_frames_go_to_depth_and_back():
    x = torch.arange(2 * 3 * 4 * 2 * 2.0).view(6, 4, 2, 2)
    assert frames_to_depth(x, 3).shape == (2, 4, 3, 2, 2)
    assert torch.equal(frames_to_depth(x, 3)[1, :, 2], x[5])
    assert torch.equal(depth_to_frames(frames_to_depth(x, 3)), x)


# --- the whole UNet

SD15 = {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "block_out_channels": WIDE}
XL = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
      "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": WIDE[:3],
      "transformer_layers_per_block": (1, 2, 3), "use_linear_projection": True}
MODULES = {"v1": (SD15, 24, False), "v2": (SD15, 32, True), "v3": (SD15, 32, False), "lcm": (SD15, None, True),
           "sdxl": (XL, 32, False), "hotshot": (XL, 24, False)}
PLACES = {"v1": 20, "v2": 21, "v3": 20, "lcm": 21, "sdxl": 15, "hotshot": 15}
FRAMES = 3


def unet_2d(config, text=16):
    return randomise(diffusers.UNet2DConditionModel(
        sample_size=16, layers_per_block=2, cross_attention_dim=text, attention_head_dim=4, norm_num_groups=32,
        **config), seed=7)


@pytest.fixture(scope="module", params=MODULES)
def kind(request):
    return request.param


def of_kinds(*kinds):
    """The test is run for these instead of all: what it claims, the others have in common with one of them."""
    return pytest.mark.parametrize("kind", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def made(kind, tmp_path_factory):
    """(plain diffusers UNet, the same in the original layout, diffusers' UNet with motion, the module's file)."""
    config, positions, middle = MODULES[kind]
    widths = config["block_out_channels"]
    tensors = random(motion_shapes(widths, positions, middle), seed=3)
    for name in tensors:
        if "norm" in name and name.endswith(".weight"):
            tensors[name] += 1  # or hardly anything would pass
    file = saved(tmp_path_factory.mktemp("motion") / "motion.safetensors", tensors)
    adapter = diffusers.MotionAdapter(
        block_out_channels=widths, use_motion_mid_block=middle, motion_max_seq_length=positions or 32)
    _, unknown = adapter.load_state_dict(convert_animatediff_checkpoint_to_diffusers(tensors), strict=False)
    assert not unknown
    plain = unet_2d(config)
    moving = diffusers.UNetMotionModel.from_unet2d(plain, adapter).eval().requires_grad_(False)
    if kind in ("v1", "hotshot"):
        for layer in list(moving.modules()):
            if isinstance(layer, ResnetBlock2D):
                layer.norm1, layer.norm2 = Spanning(layer.norm1, FRAMES), Spanning(layer.norm2, FRAMES)
        moving.conv_norm_out = Spanning(moving.conv_norm_out, FRAMES)
    return plain, LdmUNet(plain), moving, file


def inputs(sets=2, frames=FRAMES):
    generator = torch.Generator().manual_seed(11)
    return (torch.randn(sets * frames, 4, 8, 8, generator=generator), torch.full((sets * frames,), 601.0),
            torch.randn(sets * frames, 5, 16, generator=generator))


def clips(x, frames=FRAMES):
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


@of_kinds("v2", "sdxl")
def test_the_double_is_the_unet_of_diffusers(made):
    plain, unet, _, _ = made
    x, t, context = inputs()
    expected = plain(x, t, context).sample
    torch.testing.assert_close(unet(x, t, context), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_a_unet_with_motion_is_that_of_diffusers(made, kind):
    _, unet, moving, file = made
    x, t, context = inputs()
    expected = moving(clips(x), t[:2], context).sample.transpose(1, 2).flatten(0, 1)
    plain = unet(x, t, context)
    module, ran = load(file, as_diffusers=True), []
    for layer in module.modules():
        if isinstance(layer, TemporalTransformer):
            layer.register_forward_hook(lambda layer, args, output: ran.append(layer))
    with attach(unet, module) as motion:
        motion.frames = FRAMES
        assert not motion.acted
        ours = unet(x, t, context)
        assert motion.acted and len(ran) == len(set(ran)) == PLACES[kind]
    assert far(ours, plain) > 0.05
    assert far(ours, expected) < 2e-5


@of_kinds("v1", "v2", "sdxl")
def test_by_default_each_frame_is_normed_by_itself_as_in_animatediff(made):
    _, unet, moving, file = made
    x, t, context = inputs()
    norms = [layer for layer in moving.modules() if isinstance(layer, AnimateDiffTransformer3D)]
    kept = [layer.norm for layer in norms]
    for layer in norms:
        layer.norm = PerFrame(layer.norm)
    expected = moving(clips(x), t[:2], context).sample.transpose(1, 2).flatten(0, 1)
    for layer, norm in zip(norms, kept):
        layer.norm = norm
    with attach(unet, load(file)) as motion:
        motion.frames = FRAMES
        assert far(unet(x, t, context), expected) < 2e-5


@of_kinds("v2", "sdxl")
def test_a_layer_that_does_not_act_makes_a_difference(made):
    """Each of the places counts: without any one of the transformers the result is another."""
    _, unet, _, file = made
    x, t, context = inputs(sets=1)
    module = load(file)
    with attach(unet, module) as motion:
        motion.frames = FRAMES
        whole = unet(x, t, context)
        for transformer in [layer for layer in module.modules() if isinstance(layer, TemporalTransformer)]:
            weight, bias = transformer.proj_out.weight, transformer.proj_out.bias
            kept = weight.clone(), bias.clone()
            weight.zero_(), bias.zero_()
            assert far(unet(x, t, context), whole) > 1e-5
            weight.copy_(kept[0]), bias.copy_(kept[1])


# --- in and out

@of_kinds("v1", "v2")
def test_the_unet_is_itself_again_to_the_bit(made):
    _, unet, _, file = made
    x, t, context = inputs()
    before = unet(x, t, context)
    state = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with attach(unet, load(file)) as motion:
        assert torch.equal(unet(x, t, context), before)  # not a frame is named yet
        motion.frames = FRAMES
        moved = unet(x, t, context)
        motion.frames = None
        assert torch.equal(unet(x, t, context), before)
        motion.frames = FRAMES
        assert torch.equal(unet(x, t, context), moved)
        motion.frames = 2
        assert not torch.equal(unet(x, t, context), moved)
    assert torch.equal(unet(x, t, context), before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in unet.modules())
    assert unet.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in unet.state_dict().items())


def test_a_compiled_unet_is_compiled_once_for_motion_and_once_without():
    """Whole, without a break."""
    module = MotionModule(V3, Layout(widths=(32,), layers=1, heads=2))
    unet = LdmUNet(diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(32,),
        layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, sample_size=8)).eval()
    args = torch.randn(4, 4, 8, 8), torch.full((4,), 600.0), torch.randn(4, 5, 16)
    counter = CompileCounter()
    compiled = torch.compile(unet, backend=counter, fullgraph=True)
    with torch.no_grad(), attach(unet, module.eval()) as motion:
        counts = []
        for frames in (2, 2, 2, None, 2, None):
            motion.frames = frames
            torch.testing.assert_close(compiled(*args), unet(*args))
            counts.append(counter.frame_count)
    assert counts == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("kind, error", [("v1", RuntimeError), ("v2", KeyboardInterrupt)], indirect=["kind"],
                         scope="module")
def test_it_is_so_after_errors_and_interrupts(made, error):
    _, unet, _, file = made
    x, t, context = inputs()
    before = unet(x, t, context)

    def fail(*args):
        raise error("in the midst of the UNet")

    handle = unet.output_blocks[4][0].register_forward_hook(fail)
    with pytest.raises(error), attach(unet, load(file)) as motion:
        motion.frames = FRAMES
        try:
            unet(x, t, context)
        finally:
            handle.remove()
    assert torch.equal(unet(x, t, context), before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in unet.modules())


@of_kinds("v1", "v2")
def test_cond_and_uncond_may_come_in_either_order(made):
    _, unet, _, file = made
    x, t, context = inputs()
    swapped = [*range(FRAMES, 2 * FRAMES), *range(FRAMES)]
    with attach(unet, load(file)) as motion:
        motion.frames = FRAMES
        ours = unet(x, t, context)
        rounding = 2e-5 * ours.abs().max().item()
        torch.testing.assert_close(unet(x[swapped], t, context[swapped]), ours[swapped], rtol=0, atol=rounding)
        alone = unet(x[:FRAMES], t[:FRAMES], context[:FRAMES])
        torch.testing.assert_close(alone, ours[:FRAMES], rtol=0, atol=rounding)


def test_too_many_frames_and_broken_clips_are_refused(made, kind):
    _, unet, _, file = made
    x, t, context = inputs()
    most = {"v1": 24, "hotshot": 24, "lcm": 64}.get(kind, 32)
    with attach(unet, load(file)) as motion:
        motion.frames = most
        for frames in (most + 1, 0):
            with pytest.raises(MotionError, match=f"sees 1 to {most} frames at a time, not {frames}; use context"):
                motion.frames = frames
        motion.frames = 4
        with pytest.raises(MotionError, match="got 6 rows, which are no whole number of clips of 4 frames"):
            unet(x, t, context)


# --- what does not go together

def refused(unet, module):
    hooks = [len(layer._forward_hooks) for layer in unet.modules()]
    with pytest.raises(MotionError) as caught, attach(unet, module):
        raise AssertionError("attached")
    assert [len(layer._forward_hooks) for layer in unet.modules()] == hooks
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_for_another_model_is_refused(tmp_path):
    small = {name: load(saved(tmp_path / f"{name}.safetensors", random(motion_shapes(widths, 32))))
             for name, widths in (("sd15", WIDE), ("sdxl", WIDE[:3]), ("other", (32, 32, 64, 64)))}
    sd15, xl = LdmUNet(unet_2d(SD15)), LdmUNet(unet_2d(XL))
    assert "sdxl.safetensors is AnimateDiff-SDXL for SDXL" in refused(sd15, small["sdxl"])
    assert "choose a motion module made for it" in refused(xl, small["sd15"])
    assert "of blocks of [32, 32, 64, 64, 64, 64, 64, 64] channels" in refused(sd15, small["other"])


@pytest.mark.parametrize("width, family", [(1024, "SD 2"), (2048, "SDXL")])
def test_the_text_of_a_checkpoint_tells_its_family(width, family, tmp_path):
    module = load(saved(tmp_path / "m.safetensors", random(motion_shapes(WIDE, 32))))
    refusal = refused(LdmUNet(unet_2d(SD15, text=width)), module)
    assert f"and the checkpoint is one for {family}; choose" in refusal


def test_other_networks_and_other_motion_are_refused(tmp_path):
    module = load(saved(tmp_path / "m.safetensors", random(motion_shapes(WIDE, 32))))
    assert "has no place in a Linear" in refused(nn.Linear(2, 2), module)
    unet = LdmUNet(unet_2d(SD15))
    unet.input_blocks[1].append(module.down_blocks[0]["motion_modules"][0])
    assert "motion already; switch the other extension's motion off" in refused(unet, module)
