"""VideoCrafter2 as people download it, a single ``model.ckpt``, becomes diffusers models.

The network is diffusers' `UNet3DConditionModel`, what ModelScope-T2V is, with one embedding more: the frames a second
that the clip shall have. The text encoder is OpenCLIP's ViT-H-14 without its last layer, the VAE Stable Diffusion's.

Sources: AILab-CVC/VideoCrafter, ``configs/inference_t2v_512_v2.0.yaml`` and ``lvdm/``.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor

from ..options import OptionError
from ..untrusted import shown
from ..weights.files import Tensors
from . import assemble

NAME = "VideoCrafter2"
FRAMES = 16
"""The length of the clips that it was trained on, its ``temporal_length``."""
FPS = 28.0
"""The frames a second that its own script, ``scripts/run_text2video.sh``, asks for."""

PADDING = "!"
"""Token 0, which OpenCLIP fills a text up with."""

NETWORK, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.model.", "first_stage_model."
IGNORED = (TEXT + "logit_scale", TEXT + "text_projection", TEXT + "attn_mask")
"""What OpenCLIP's text encoder has besides, for other uses."""


def check_frames(frames: int) -> None:
    """Raises OptionError for a clip that is longer than those that it was trained on."""
    if not 1 <= frames <= FRAMES:
        raise OptionError("frames", frames, f"a whole number from 1 to {FRAMES} with {NAME}, which was trained on "
                                            f"clips of {FRAMES} frames")


class _TimeEmbedding(TimestepEmbedding):
    """diffusers' time embedding, to which another is added."""

    def forward(self, sample: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = super().forward(sample) + condition
        return out


class VideoCrafterUNet(UNet3DConditionModel):
    """`UNet3DConditionModel` that is told the frames a second of the clip.

    ``time_embedding(t) + fps_embedding(fps)`` takes the place of the time embedding alone; of both, the sinusoids are
    the same. The arguments are those of `UNet3DConditionModel`.
    """

    # diffusers reads the names of the configuration from the signature
    @functools.wraps(UNet3DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        width = self.config.block_out_channels[0]
        self.time_embedding = _TimeEmbedding(width, 4 * width, self.config.act_fn)
        self.fps_embedding = TimestepEmbedding(width, 4 * width, self.config.act_fn)

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, fps: float = FPS,
                **kwargs: Any) -> Any:
        """As of `UNet3DConditionModel`; ``sample``: (clips, channels, frames, height, width), ``fps``: above 0."""
        rate = self.time_proj(torch.full([len(sample)], float(fps), device=sample.device))
        return super().forward(sample, timestep, encoder_hidden_states,
                               timestep_cond=self.fps_embedding(rate.to(self.dtype)), **kwargs)


_INSIDE = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_OUTSIDE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
            "fps_embedding.linear_1": "fps_embedding.0", "fps_embedding.linear_2": "fps_embedding.2",
            "transformer_in": "init_attn.0", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
            "conv_out": "out.2"}
_LAYERS = 2
"""Residual blocks a level on the way down; there is one more on the way up."""
_BLOCK = re.compile(re.escape(NETWORK) + r"input_blocks\.(\d{1,3})\.")


def in_file(name: str, levels: int) -> str:
    """Where the file of a network of ``levels`` levels has the weight that `VideoCrafterUNet` calls ``name``."""
    for ours, theirs in _OUTSIDE.items():
        if name.startswith(ours + "."):
            return NETWORK + theirs + name.removeprefix(ours)
    part, *path = name.split(".")
    level = int(path.pop(0)) if part != "mid_block" else 0
    kind, number, *rest = path
    index = level * (_LAYERS + 1) + int(number)
    if part == "mid_block":
        places = {"resnets": 3 * int(number), "temp_convs": 3 * int(number), "attentions": 1, "temp_attentions": 2}
        block, place = "middle_block", places.get(kind, 0)
    else:
        block = f"input_blocks.{index + 1}" if part == "down_blocks" else f"output_blocks.{index}"
        place = {"attentions": 1, "temp_attentions": 2}.get(kind, 0)
    if kind == "downsamplers":
        return f"{NETWORK}input_blocks.{(level + 1) * (_LAYERS + 1)}.0.op.{rest[-1]}"
    if kind == "upsamplers":
        outermost = 3 if level > 0 else 1  # behind two transformers, which the innermost level has not
        return f"{NETWORK}output_blocks.{level * (_LAYERS + 1) + _LAYERS}.{outermost}.conv.{rest[-1]}"
    if kind == "temp_convs":
        rest.insert(0, "temopral_conv")  # spelled so
    elif kind == "resnets":
        rest[0] = _INSIDE[rest[0]]
    return ".".join([NETWORK + block, str(place), *rest])


def of_conversion(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a UNet in a diffusers folder as one of `VideoCrafterUNet`, whatever its class is called."""
    own = {"_class_name": VideoCrafterUNet.__name__, "sample_size": [40, 64]}
    return own | {key: value for key, value in config.items() if key not in ("_class_name", "fps_cond")
                  and (key, value) != ("sample_size", None)}


def _shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that tells how wide a network is. Raises ValueError."""
    tensor = tensors.get(name)
    if tensor is None:
        raise ValueError(f"lacks the tensor {name}")
    if tensor.ndim != dimensions or 0 in tensor.shape:
        raise ValueError(f"has {name} of shape {tuple(tensor.shape)}")
    return tuple(tensor.shape)


def unet_config(tensors: Tensors) -> dict[str, Any]:
    """The arguments of the `VideoCrafterUNet` that a file's network fits, read from shapes.

    Raises ValueError where a tensor that tells them is missing or has the wrong number of dimensions.
    """
    numbers = {int(match[1]) for name in tensors if (match := _BLOCK.match(name))}
    levels, extra = divmod(max(numbers, default=0) + 1, _LAYERS + 1)
    if extra or not 1 <= levels <= 8:
        raise ValueError(f"has {len(numbers)} blocks on its way down, where {NAME} has 12")
    blocks = [f"{NETWORK}input_blocks.{level * (_LAYERS + 1) + 1}." for level in range(levels)]
    widths = [_shape(tensors, block + "0.out_layers.3.weight", 4)[0] for block in blocks]
    attention = [any(name.startswith(block + "1.") for name in tensors) for block in blocks]
    inputs = _shape(tensors, NETWORK + "input_blocks.0.0.weight", 4)[1]
    outputs = _shape(tensors, NETWORK + "out.2.weight", 4)[0]
    text = _shape(tensors, NETWORK + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    head = _shape(tensors, NETWORK + "init_attn.0.proj_in.weight", 3)[0] // 8
    if head < 1 or any(width % head or width % 32 for width in widths):
        raise ValueError(f"has blocks of {widths} channels, which heads of {head} and groups of 32 do not divide")
    return {
        "sample_size": [40, 64], "in_channels": inputs, "out_channels": outputs, "layers_per_block": _LAYERS,
        "down_block_types": ["CrossAttnDownBlock3D" if there else "DownBlock3D" for there in attention],
        "up_block_types": ["CrossAttnUpBlock3D" if there else "UpBlock3D" for there in attention[::-1]],
        "block_out_channels": widths, "cross_attention_dim": text, "attention_head_dim": head}


def unet_state(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tensors of a file's network under the names of the `VideoCrafterUNet` of ``config``.

    Raises ValueError, which names the first tensor that is missing, has no place there or another shape.
    """
    wanted = assemble.shapes(VideoCrafterUNet.__name__, config)
    names = {name: in_file(name, len(config["block_out_channels"])) for name in wanted}
    return _fitted(names, wanted, {name: tensor for name, tensor in tensors.items() if name.startswith(NETWORK)})


def _fitted(names: Mapping[str, str], wanted: Mapping[str, torch.Size], given: Tensors) -> Tensors:
    """``given`` under a network's own names. ``names``: our name -> theirs, ``wanted``: the shapes of the network.

    Kernels of one pixel may be linear layers. Raises ValueError.
    """
    surplus = sorted(given.keys() - names.values())
    if surplus:
        raise ValueError(f"has {_tensors(surplus)} too many")
    missing = [theirs for theirs in names.values() if theirs not in given]
    if missing:
        raise ValueError(f"lacks {_tensors(missing)}")
    state: Tensors = {}
    for ours, theirs in names.items():
        tensor, shape = given[theirs], tuple(wanted[ours])
        part = ours.split(".")[-2]
        if part in _THIRDS and tensor.ndim and len(tensor) == 3 * shape[0]:
            tensor = tensor.chunk(3)[_THIRDS.index(part)]
        if tuple(tensor.shape) != shape and tuple(tensor.shape) != (*shape, 1):
            raise ValueError(f"has {theirs} of shape {tuple(tensor.shape)}, where the network has {shape}")
        state[ours] = tensor.reshape(shape)
    return state


def _tensors(names: Sequence[str]) -> str:
    """How many these are, and one of them, in words."""
    if len(names) == 1:
        return f"the tensor {shown(names[0], 100)}"
    return f"{len(names)} tensors ({shown(names[0], 100)} and others)"


_TEXT_OUTSIDE = {"embeddings.token_embedding.weight": "token_embedding.weight",
                 "embeddings.position_embedding.weight": "positional_embedding",
                 "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}
_TEXT_INSIDE = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                "self_attn.out_proj": "attn.out_proj", "self_attn.q_proj": "attn.in_proj",
                "self_attn.k_proj": "attn.in_proj", "self_attn.v_proj": "attn.in_proj"}
_LAYER = re.compile(re.escape(TEXT) + r"transformer\.resblocks\.(\d{1,4})\.")
_THIRDS = ("q_proj", "k_proj", "v_proj")


def text_in_file(name: str) -> str:
    """Where a file has the weight that transformers' CLIP text encoder calls ``name``."""
    name = name.removeprefix("text_model.")  # so called before transformers 5.6
    if name in _TEXT_OUTSIDE:
        return TEXT + _TEXT_OUTSIDE[name]
    _, _, layer, *inside, kind = name.split(".")
    theirs = _TEXT_INSIDE[".".join(inside)]
    return f"{TEXT}transformer.resblocks.{layer}.{theirs}{'_' if theirs == 'attn.in_proj' else '.'}{kind}"


def text_config(tensors: Tensors) -> dict[str, Any]:
    """The arguments of the CLIPTextConfig that a file's text encoder fits, without its last layer, read from shapes.

    Heads are 64 wide, as in ViT-H-14. Raises ValueError where a tensor that tells them is missing.
    """
    words, width = _shape(tensors, TEXT + "token_embedding.weight", 2)
    layers = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    heads = max(width // 64, 1)
    if len(layers) < 2 or width % heads:
        raise ValueError(f"has a text encoder of {len(layers)} layers, {width} wide, which is none of OpenCLIP's")
    return {
        "vocab_size": words, "hidden_size": width, "num_hidden_layers": max(layers), "num_attention_heads": heads,
        "intermediate_size": _shape(tensors, f"{TEXT}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "hidden_act": "gelu", "max_position_embeddings": _shape(tensors, TEXT + "positional_embedding", 2)[0],
        "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0}


def text_state(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tensors of a file's text encoder under the names of transformers' CLIPTextModel of ``config``.

    Raises ValueError as `unet_state`.
    """
    wanted = assemble.shapes("CLIPTextModel", config)
    names = {name: text_in_file(name) for name in wanted if not name.endswith("position_ids")}
    last = f"{TEXT}transformer.resblocks.{config['num_hidden_layers']}."
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("cond_stage_model.")}
    return _fitted(names, wanted, {name: tensor for name, tensor in own.items()
                                   if name not in IGNORED and not name.startswith(last)})


def parts_of(tensors: Tensors, vae: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any], Tensors]]:
    """Class, configuration and tensors of the networks in a file; ``vae``: the configuration of Stable Diffusion's VAE.

    The text encoder's embeddings are those of its last layer but one, after the final norm. Raises ValueError for what
    is missing, left over or of another shape.
    """
    assemble.left_over(name for name in tensors if not name.startswith((NETWORK, VAE, "cond_stage_model."))
                       and not assemble.HARMLESS.match(name))
    unet, text = unet_config(tensors), text_config(tensors)
    parts: dict[str, tuple[str, Mapping[str, Any], Tensors]] = {
        "unet": (VideoCrafterUNet.__name__, unet, unet_state(tensors, unet)),
        "text_encoder": ("CLIPTextModel", text, text_state(tensors, text))}
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(VAE)}
    if own:
        levels = range(len(vae["block_out_channels"]))
        widths = [_shape(own, f"{VAE}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in levels]
        vae = {**vae, "block_out_channels": widths}
        parts["vae"] = ("AutoencoderKL", vae, assemble.vae_state(own, vae))
    return parts


def kind(tensors: Tensors) -> str | None:
    """Which of its kin a file is, by its tensors: `NAME`, or another in words; None: of no such kind."""
    own = [name for name in tensors if name.startswith(NETWORK)]
    marks = {mark: any(mark in name for name in own)
             for mark in ("init_attn.", "temopral_conv.", "fps_embedding.", "relative_position", "_ip.")}
    if not any(marks[mark] for mark in ("init_attn.", "temopral_conv.", "relative_position")):
        return None
    first = tensors.get(NETWORK + "input_blocks.0.0.weight")
    channels = first.shape[1] if first is not None and first.ndim == 4 else 4
    if channels != 4:
        return f"DynamiCrafter or its like, which makes a clip from a picture ({channels} input channels)"
    if marks["_ip."] or any(name.startswith(("image_proj_model.", "embedder.")) for name in tensors):
        return "the image-to-video model of VideoCrafter"
    if marks["relative_position"] or not marks["temopral_conv."]:
        return "VideoCrafter1"
    return NAME
