"""A network from a configuration and the tensors of its files: all of them, and nothing left over.

    wanted = shapes("UNet2DConditionModel", config)         # names and shapes, no memory
    compare(unet_state(tensors, config), wanted)            # ValueError: what is missing, left over or of another shape
    unet = build("UNet2DConditionModel", config, unet_state(tensors, config), torch.float16)

Configurations and files are strangers': the classes are those of `CLASSES`, values are bounded, no code of theirs runs.
"""
from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch

from ..untrusted import shown
from ..weights import files
from ..weights.files import Tensors, one_line

Config = Mapping[str, Any]

CLASSES = ("UNet2DConditionModel", "UNetMotionModel", "UNet3DConditionModel", "AutoencoderKL", "MotionAdapter",
           "ControlNetModel", "VideoCrafterUNet", "CLIPTextModel")
"""The networks that are known here; the last is transformers', the one before is ours, the others are diffusers'."""

TEXT_CONFIG = ("vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
               "num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id",
               "bos_token_id", "eos_token_id")
"""What makes a CLIPTextModel; transformers writes much besides that does not."""

OF_TRAINING = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
"""What diffusers' EMAModel leaves in the configuration of a UNet."""

UNSUPPORTED = {
    "time_cond_proj_dim": "the guidance scale as an input (a distilled LCM; use its LoRA with --solver lcm)",
    "class_embed_type": "classes as an input", "num_class_embeds": "classes as an input",
    "addition_embed_type": "more inputs than the prompt", "encoder_hid_dim_type": "images as prompts (IP-Adapter)",
    "encoder_hid_dim": "more inputs than the prompt", "latents_mean": "latents of another space",
    "latents_std": "latents of another space", "shift_factor": "latents of another space",
    "conv_in_channels": "frames as an input (PIA)",
}
"""Settings of a configuration that ask for inputs or steps which nothing here provides, so they would be dropped."""

MOST_NUMBER, MOST_BLOCKS, MOST_LAYERS, MOST_TENSORS = 1 << 16, 8, 48, 5_000
"""Bounds of a stranger's configuration and file; Stable Diffusion's have at most 49,408 words, 4 blocks, 24 layers and
1,300 tensors."""

HARMLESS = re.compile(
    r"model_ema\.|(.*_)?(alphas|betas|alphas_cumprod|alphas_cumprod_prev|one_minus_alphas_cumprod)$"
    r"|(sqrt_recip|sqrt_recipm1)_alphas_cumprod$|(posterior_(log_variance_clipped|mean_coef[12]|variance))$"
    r"|(lvlb_weights|logvar|scale_factor|scale_arr|v_pred|ztsnr|edm_vpred\.sigma_(max|min)|denoiser\.(log_)?sigmas)$"
    r"|first_stage_model\.(loss|model_ema)\.|safety_checker\.|(cond_stage_model\.)?logit_scale$"
    r"|cond_stage_model\.transformer\.(vision_model|visual_projection|text_projection)\."
    r"|cond_stage_model\.transformer\.logit_scale$|(.*\.)?position_ids$")
"""Tensors of a single file that no network here has, and none misses: averages and tables of the training, losses of
the VAE, the other half of CLIP. (`ivmixed.weights.noise` reads the tables.)"""

OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
"""Names in the VAE before diffusers 0.18 -> those since."""


# Configurations


def arguments(name: str, config: Config) -> dict[str, Any]:
    """The arguments that ``config`` has for class ``name``. Raises ValueError: a value is out of bounds, asks for code,
    or for something that is not here."""
    for key in ("auto_map", "trust_remote_code", "quantization_config"):
        if config.get(key):
            raise ValueError(f"asks for code of its own or of another library ({key}), which is never run")
    if "_class_name" in config and config["_class_name"] != name:
        raise ValueError(f"is of {shown(config['_class_name'], 60)} in place of {name}")
    known = TEXT_CONFIG if name == "CLIPTextModel" else inspect.signature(_class(name)).parameters
    taken = {}
    for key, value in config.items():
        if key.startswith("_") or key in OF_TRAINING:
            continue
        if key in UNSUPPORTED and value not in (None, False):
            raise ValueError(f"wants {UNSUPPORTED[key]}: {key} = {shown(value, 60)}")
        if key in known:
            _bound(key, value)
            taken[key] = value
        elif name != "CLIPTextModel" and value not in (None, False, [], {}):
            raise ValueError(f"has the setting {shown(key, 60)} = {shown(value, 60)}, which is not known here; a newer "
                             "release of diffusers may know it")
    if taken.get("attention_type", "default") not in ("default", None):
        raise ValueError(f"wants boxes as an input (GLIGEN): attention_type = {shown(taken['attention_type'], 60)}")
    return taken


def whole(config: Config, key: str, default: int | None = None) -> int:
    """A number of a configuration, such as a width. Raises ValueError where it is none."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_NUMBER:
        raise ValueError(f"has {key} = {shown(value, 60)} in place of a whole number")
    return value


def _bound(key: str, value: Any, depth: int = 0) -> None:
    if isinstance(value, list) and len(value) <= MOST_BLOCKS and depth < 2:
        for part in value:
            _bound(key, part, depth + 1)
    elif isinstance(value, str) and len(value) <= 100:
        return
    elif value is not None and not isinstance(value, bool):
        most = MOST_LAYERS if "layers" in key else MOST_NUMBER
        if not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > most:
            raise ValueError(f"has {key} = {shown(value, 60)}, which is not possible")


@cache
def _class(name: str) -> Any:
    import diffusers
    import transformers

    if name not in CLASSES:
        raise ValueError(f"is of {shown(name, 60)}, which is not known here")
    if name == "VideoCrafterUNet":
        from .videocrafter import VideoCrafterUNet

        return VideoCrafterUNet
    return getattr(transformers if name == "CLIPTextModel" else diffusers, name)


def _skeleton(name: str, config: Config) -> Any:
    """The network without its weights, on the device "meta"."""
    given = arguments(name, config)
    try:
        with torch.device("meta"):
            if name == "CLIPTextModel":
                from transformers import CLIPTextConfig

                return _class(name)(CLIPTextConfig(**given))
            return _class(name)(**given)
    except Exception as error:  # of any kind: the libraries check little, and a stranger's values fail anywhere
        raise ValueError(f"has a config.json that makes no {name} ({one_line(error)})") from error


@cache
def _shapes(name: str, config: str) -> Mapping[str, torch.Size]:
    return {key: tensor.shape for key, tensor in _skeleton(name, json.loads(config)).state_dict().items()}


def shapes(name: str, config: Config) -> Mapping[str, torch.Size]:
    """Names and shapes of all tensors of a network. Raises ValueError where the configuration makes none."""
    return _shapes(name, json.dumps(config, sort_keys=True))


# Tensors


def compare(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Size]) -> None:
    """Raises ValueError unless ``state`` has the names and shapes ``wanted``, and no others."""
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f"lacks {len(missing)} of its {len(wanted)} weights, {missing[0]} among them")
    left_over(name for name in state if name not in wanted)
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise ValueError(f"has {name} of shape {list(state[name].shape)} in place of {list(shape)}")


def left_over(names: Iterable[str]) -> None:
    """Raises ValueError where there are ``names`` of tensors that nothing here uses."""
    foreign = list(names)
    if foreign:
        kind = next((kind for sign, kind in FOREIGN if any(re.search(sign, name) for name in foreign)), "")
        raise ValueError(f"holds {len(foreign)} weights that would stay unused, {shown(foreign[0], 100)} among them"
                         + (f": it is {kind}" if kind else ""))


FOREIGN = (
    (r"cond_proj", "a distilled LCM, which takes the guidance scale as an input (use its LoRA with --solver lcm)"),
    (r"fuser\.|position_net", "GLIGEN, which takes boxes"),
    (r"to_[kv]_ip|image_proj|ip_adapter", "with an IP-Adapter, which takes pictures"),
    (r"temp|motion", "with layers over time"),
    (r"lora", "with a LoRA beside the weights (fuse it first)"),
)


def build(name: str, config: Config, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """The network with the weights ``state`` in ``dtype``, on the CPU, for inference. Raises ValueError."""
    compare(state, shapes(name, config))
    quantised = next((key for key, tensor in state.items() if not tensor.is_floating_point()
                      or tensor.element_size() < 2), None)
    if quantised is not None:
        raise ValueError(f"is quantised ({quantised} is {str(state[quantised].dtype).removeprefix('torch.')}); "
                         "give its version in fp16, bf16 or fp32")
    model = _skeleton(name, config)
    model.load_state_dict(dict(state), assign=True)
    for key, buffer in model.named_buffers():
        if buffer.is_meta and key.endswith("position_ids"):  # in no file: each position's own number
            model.get_submodule(key.rpartition(".")[0]).position_ids = torch.arange(buffer.shape[-1])[None]
    return model.to(dtype).eval()


def vae_state(tensors: Mapping[str, torch.Tensor], config: Config) -> Tensors:
    """The tensors of a VAE under diffusers' names, from those, from its older ones, or from CompVis' layout."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    _few(tensors)
    prefix = "first_stage_model."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    own = {name: tensor for name, tensor in own.items() if not re.match(r"(loss|model_ema)\.", name)}
    if any(".mid_block." in name for name in own):
        return {_modern(name): tensor.reshape(tensor.shape[:2]) if _of_attention(name) else tensor
                for name, tensor in own.items()}
    layer = re.compile(r"(encoder|decoder)\.(conv_(in|out)|norm_out|mid\.(block_[12]|attn_1)|(down|up)\.\d)\."
                       r"|(post_)?quant_conv\.")
    left_over(name for name in own if not layer.match(name))
    return _converted(convert_ldm_vae_checkpoint, own, config)


def _modern(name: str) -> str:
    match = re.match(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$", name)
    return f"{match[1]}.{dict(OLD_ATTENTION)[match[2]]}.{match[3]}" if match else name


def _of_attention(name: str) -> bool:
    """Whether it is a matrix that older files hold as a convolution of 1 x 1."""
    matrix = r"\.attentions\.\d+\.(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)\.weight$"
    return re.search(matrix, name) is not None


def unet_state(tensors: Mapping[str, torch.Tensor], config: Config) -> Tensors:
    """The tensors of a checkpoint's UNet, in CompVis' layout, under diffusers' names. Raises ValueError where some have
    no place there."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    prefix = "model.diffusion_model."
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    layer = re.compile(r"((input|output)_blocks|middle_block)\.\d{1,2}\.|(time_embed|out)\.")
    left_over(name for name in own if not layer.match(name, len(prefix)))
    _few(own)
    state = _converted(convert_ldm_unet_checkpoint, own, config)
    used = {id(tensor) for tensor in state.values()}
    left_over(name for name, tensor in own.items() if id(tensor) not in used)
    return state


def _converted(convert: Callable[..., Tensors], own: Mapping[str, torch.Tensor], config: Config) -> Tensors:
    try:
        state = convert(dict(own), dict(config))
    except KeyError as error:  # diffusers takes some for granted, and writes None for others
        raise ValueError(f"lacks weights, {shown(str(error.args[0]), 100)} among them") from error
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def control_config(tensors: Mapping[str, torch.Tensor], unet: Config) -> dict[str, Any]:
    """The configuration of a ControlNet file: that of the UNet that it is for, and its hint's layers as they are."""
    from diffusers import ControlNetModel

    known = inspect.signature(ControlNetModel).parameters
    config = {key: value for key, value in unet.items() if key in known}
    if "down_block_types" in config:
        config["down_block_types"] = [str(name).replace("Motion", "2D") for name in config["down_block_types"]]
    layers = {"conv_in": 0, "blocks.1": 1, "blocks.3": 2, "blocks.5": 3, "0": 0, "4": 1, "8": 2, "12": 3}
    widths: dict[int, int] = {}
    for name, tensor in tensors.items():
        match = re.search(r"(?:input_hint_block|controlnet_cond_embedding)\.(.+)\.weight$", name)
        if match and match[1] in layers:
            widths[layers[match[1]]] = files.shape(name, tensor, (4,))[0]
    return {**config, "conditioning_embedding_out_channels": [widths[place] for place in sorted(widths)]}


def control_state(tensors: Mapping[str, torch.Tensor], config: Config) -> Tensors:
    """The tensors of a ControlNet under diffusers' names, from those or from the original ones, which may stand beside
    a checkpoint's. Raises ValueError where some have no place there."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    prefix = "control_model."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    left_over(name for name in tensors if own and not name.startswith(
        (prefix, "model.diffusion_model.", "first_stage_model.", "cond_stage_model.")) and not HARMLESS.match(name))
    own = own or dict(tensors)
    _few(own)
    if any(name.startswith("controlnet_cond_embedding.") for name in own):
        return own
    state = _converted(convert_controlnet_checkpoint, own, config)
    used = {id(tensor) for tensor in state.values()}
    left_over(name for name, tensor in own.items() if id(tensor) not in used)
    return state


def text_state(tensors: Mapping[str, torch.Tensor], config: Config, prefix: str = "") -> Tensors:
    """The tensors of a text encoder whose names begin with ``prefix``, under the installed transformers' names.

    Old merges leave out ``text_model.``, and so does transformers 5.
    """
    wrapper = "text_model." if any(name.startswith("text_model.") for name in shapes("CLIPTextModel", config)) else ""
    return {wrapper + name.removeprefix(prefix).removeprefix("text_model."): tensor for name, tensor in tensors.items()
            if name.startswith(prefix) and not HARMLESS.match(name)
            and not re.match(r"(vision_model|visual_projection|text_projection)\.|logit_scale$",
                             name.removeprefix(prefix))}


def _few(tensors: Mapping[str, Any]) -> None:
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"holds {len(tensors)} tensors, more than any model known here")
