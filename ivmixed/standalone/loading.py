"""Model files as video makers have them become diffusers pipelines on the CPU, without a network.

`check` refuses a wrong choice of files in one line and reads no weights; `load_video` and `load_image` check, then
load. What a file is, is read from the names and shapes of its tensors, never from its file name:

    check("dreamshaper.safetensors", "v3_sd15_mm.ckpt")
    video = load_video("dreamshaper.safetensors", "v3_sd15_mm.ckpt", dtype=torch.float16)
    video.unet.config.motion_max_seq_length      # 32: the most frames that the motion module can number

Sources: the layouts are those of CompVis' latent-diffusion (checkpoints), guoyww's AnimateDiff (motion modules),
kohya-ss' sd-scripts and peft (LoRA). The component configurations and the tokenizer's merges are in ``sd15/``.
"""
from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers  # its names load when they are first used, so `check` stays quick
import torch

from ..motion import files, lora
from ..motion.files import CHECKPOINT, FAMILIES, LORA, MOTION, VAE, Source, Tensors
from ..motion.loading import as_animatediff, to_diffusers, widths
from ..motion.loading import read as read_module

SD15 = Path(__file__).with_name("sd15")

FOLDER = "a diffusers folder of "
MODELSCOPE, ANIMATEDIFF = FOLDER + "TextToVideoSDPipeline", FOLDER + "AnimateDiffPipeline"
STABLE_DIFFUSION = FOLDER + "StableDiffusionPipeline"
OURS = " for SD 1.5"

EXPECTED: dict[str, tuple[str, ...]] = {
    "checkpoint": (CHECKPOINT + OURS, STABLE_DIFFUSION, ANIMATEDIFF, MODELSCOPE),
    "motion_module": (MOTION + OURS, FOLDER + "MotionAdapter"),
    "image_checkpoint": (CHECKPOINT + OURS, STABLE_DIFFUSION),
    "image_lora": (LORA + OURS,),
    "vae": (VAE, FOLDER + "AutoencoderKL"),
}
"""What each argument may name, in the words that `_kind` says of a file or folder."""

ANIMATEDIFF_SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "linspace"}
"""DDIM as AnimateDiff runs it: its motion modules were trained on linear betas, SD 1.5 on scaled-linear ones."""


class LoadError(ValueError):
    """A file was refused. ``field`` is the argument, ``value`` the path given, the message one line."""

    def __init__(self, field: str, value: Source | None, problem: str):
        self.field, self.value = field, value
        super().__init__(f"IV-mixed: {field} = {value} {problem}; expected: {' or '.join(EXPECTED[field])}.")


def check(
    checkpoint: Source,
    motion_module: Source | None = None,
    *,
    image_checkpoint: Source | None = None,
    image_lora: Sequence[tuple[Source, float]] = (),
    vae: Source | None = None,
    config: Path = SD15,
) -> str:
    """Refuse whatever can be refused without reading weights, and return what the checkpoint is, in words.

    Arguments as of `load_video` and, with ``image_``, of `load_image`; LoRAs without an ``image_checkpoint`` are for
    ``checkpoint``. Reads the headers of safetensors files, the pickled names of .ckpt files and the JSON of folders.
    (A .ckpt in the format that PyTorch wrote before 1.6 has no header, and is read whole.)
    Raises LoadError: a file is missing, damaged or of another kind, or does not go with the checkpoint.
    """
    kind = _check_checkpoint("checkpoint", checkpoint, config)
    if vae is not None:
        _kind("vae", vae, _unet_config(checkpoint, config))
    elif kind == CHECKPOINT + OURS and not _has(_header("checkpoint", checkpoint), "first_stage_model."):
        raise LoadError("vae", None, f"is missing: {checkpoint} has no VAE of its own")
    if motion_module is not None:
        if kind == MODELSCOPE:
            raise LoadError("motion_module", motion_module, f"has no place in {checkpoint}, a video model by itself")
        _check_motion(motion_module, _unet_config(checkpoint, config))
    elif kind not in (ANIMATEDIFF, MODELSCOPE):
        raise LoadError("motion_module", None, f"is missing: {checkpoint} has no motion of its own")
    if image_checkpoint is not None:
        _check_checkpoint("image_checkpoint", image_checkpoint, config)
    elif image_lora and kind in (ANIMATEDIFF, MODELSCOPE):
        raise LoadError("image_checkpoint", None, f"is missing: LoRAs have no place in {checkpoint}, a video model")
    for path, _ in image_lora:
        _kind("image_lora", path, _unet_config(image_checkpoint or checkpoint, config))
    return kind


def load_video(
    checkpoint: Source,
    motion_module: Source | None = None,
    *,
    vae: Source | None = None,
    dtype: torch.dtype = torch.float32,
    config: Path = SD15,
) -> diffusers.DiffusionPipeline:
    """The video model, on the CPU in ``dtype``: an AnimateDiffPipeline or, of ModelScope, a TextToVideoSDPipeline.

    ``checkpoint``: a single SD 1.5 file in the original layout (safetensors, or what ``torch.save`` wrote),
    or a diffusers folder of a StableDiffusionPipeline, an AnimateDiffPipeline or a TextToVideoSDPipeline.
    ``motion_module``: AnimateDiff v1, v2 or v3 and their like in a single file, or a diffusers MotionAdapter folder;
    needed where the checkpoint has no motion of its own, and replaces that of an AnimateDiffPipeline.
    ``vae``: a single VAE file or a diffusers AutoencoderKL folder, in place of the checkpoint's own.
    ``config``: the diffusers folder with the configurations of a single file's components.

    ``unet.config.motion_max_seq_length`` of an AnimateDiffPipeline is the number of frames it has positions for. Its
    scheduler is DDIM on AnimateDiff's linear betas, unless the folder brings motion and scheduler itself.
    Raises LoadError.
    """
    check(checkpoint, motion_module, vae=vae, config=config)
    pipeline = _load_pipeline("checkpoint", checkpoint, vae, dtype, config)
    if motion_module is not None:
        with _loading("motion_module", motion_module):
            unet = _with_motion(pipeline.unet, _load_motion(motion_module, dtype))
            prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
            scheduler = diffusers.DDIMScheduler(**ANIMATEDIFF_SCHEDULE, prediction_type=prediction)
            pipeline = diffusers.AnimateDiffPipeline(
                vae=pipeline.vae, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, unet=unet,
                motion_adapter=None, scheduler=scheduler)
    elif hasattr(pipeline, "motion_adapter"):
        pipeline.motion_adapter = None  # its weights are in the UNet already
    return pipeline


def load_image(
    checkpoint: Source,
    *,
    loras: Sequence[tuple[Source, float]] = (),
    dtype: torch.dtype = torch.float32,
    config: Path = SD15,
) -> diffusers.StableDiffusionPipeline:
    """The image model, on the CPU in ``dtype``.

    ``checkpoint``: a single SD 1.5 file or a diffusers folder of a StableDiffusionPipeline, see `load_video`. A file
    without a VAE is fine here, and gives ``vae`` None: the image model takes and gives latents.
    ``loras``: (file, weight) pairs, in kohya's or diffusers' layout, fused into UNet and text encoder in this order.
    The scheduler of a single file is DDIM on SD 1.5's scaled-linear betas; no safety checker is loaded.
    Raises LoadError.
    """
    _check_checkpoint("image_checkpoint", checkpoint, config)
    for path, _ in loras:
        _kind("image_lora", path, _unet_config(checkpoint, config))
    pipeline = _load_pipeline("image_checkpoint", checkpoint, None, dtype, config)
    for path, weight in loras:
        with _loading("image_lora", path):
            _fuse_lora(pipeline, path, weight)
    return pipeline


# What a file or folder is


def _kind(field: str, path: Source, unet: Mapping[str, Any]) -> str:
    """What ``path`` is, one of EXPECTED[field]. ``unet``: the configuration that LoRAs and modules have to fit."""
    if not os.path.exists(path):
        raise LoadError(field, path, "does not exist")
    try:
        kind = _folder_kind(Path(path), unet) if os.path.isdir(path) else _file_kind(_header(field, path), unet)
    except files.FileError as error:
        raise LoadError(field, path, str(error)) from error
    if kind not in EXPECTED[field]:
        raise LoadError(field, path, f"is {kind}")
    return kind


def _folder_kind(folder: Path, unet: Mapping[str, Any]) -> str:
    config = _json(folder / "model_index.json") or _json(folder / "config.json")
    if not config:
        return "a folder without a readable model_index.json"
    kind = FOLDER + str(config.get("_class_name"))
    if kind == STABLE_DIFFUSION:
        width = _json(folder / "unet" / "config.json").get("cross_attention_dim")
        return kind + (f" for {FAMILIES[width]}" if width in FAMILIES else "")
    if "block_out_channels" in config and kind == FOLDER + "MotionAdapter":
        return (kind + _motion_family(config["block_out_channels"], unet)).removesuffix(OURS)
    return kind


def _file_kind(tensors: Tensors, unet: Mapping[str, Any]) -> str:
    kind = files.kind(tensors)
    if kind == MOTION:
        return kind + _motion_family(widths(as_animatediff(tensors)), unet)
    if kind in (CHECKPOINT, LORA):
        channels = _width(tensors, r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$")
        if channels not in (None, unet["in_channels"]):
            return f"{kind} for inpainting or editing ({channels} input channels)"
        width = _width(tensors, r"attn2[._](processor\.)?to_k(\.weight|[._]lora[._](down|A))")
        family = FAMILIES.get(width or 0, f"text of width {width}")
        return kind + (OURS if width in (None, unet["cross_attention_dim"]) else f" for {family}")
    if kind == VAE:
        channels = _width(tensors, r"decoder\.conv_in\.weight$")
        return kind if channels == unet["in_channels"] else f"{kind} for latents of {channels} channels"
    return kind


def _motion_family(widths: Sequence[int], unet: Mapping[str, Any]) -> str:
    if list(widths) == list(unet["block_out_channels"]):
        return OURS
    return " for SDXL" if list(widths) == [320, 640, 1280] else f" for blocks of {list(widths)} channels"


def _width(tensors: Tensors, pattern: str) -> int | None:
    """Input width of the first layer whose name matches, or None. Raises FileError."""
    return next((files.shape(name, tensor, (2, 4))[1] for name, tensor in tensors.items() if re.search(pattern, name)),
                None)


def _check_checkpoint(field: str, path: Source, config: Path) -> str:
    """The kind of a checkpoint that has all that it should have."""
    kind = _kind(field, path, _json(config / "unet" / "config.json"))
    if kind == CHECKPOINT + OURS:
        if not _has(_header(field, path), "cond_stage_model.transformer."):
            raise LoadError(field, path, "has no text encoder")
        return kind
    for part in ("unet", "vae", "text_encoder"):
        weights = [*Path(path, part).glob("*.safetensors"), *Path(path, part).glob("*.bin")]
        if not weights or not _json(Path(path, part, "config.json")):
            raise LoadError(field, path, f"has no weights and config.json in its folder {part}")
    return kind


def _check_motion(path: Source, unet: Mapping[str, Any]) -> None:
    if _kind("motion_module", path, unet) == MOTION + OURS:
        try:
            read_module(path, "meta")
        except files.FileError as error:
            raise LoadError("motion_module", path, str(error)) from error


def _unet_config(checkpoint: Source, config: Path) -> dict[str, Any]:
    """The configuration of the UNet of a checkpoint, a folder or a single file."""
    return _json(Path(checkpoint if os.path.isdir(checkpoint) else config, "unet", "config.json"))


# Reading


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file, or none that can be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _has(tensors: Tensors, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _header(field: str, path: Source) -> Tensors:
    """The tensors of a file by name, on the device "meta": shapes without data."""
    return _tensors(field, path, "meta")


def _tensors(field: str, path: Source, device: str = "cpu") -> Tensors:
    """The tensors of a file by name. Raises LoadError."""
    try:
        return files.read(path, device)
    except files.FileError as error:
        raise LoadError(field, path, str(error)) from error


# Loading


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers and transformers work in silence, and talk afterwards as they did before."""
    import transformers

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


@contextmanager
def _loading(field: str, path: Source) -> Iterator[None]:
    """In silence, and whatever the libraries raise comes out as one line about ``path``."""
    try:
        with quiet():
            yield
    except (LoadError, MemoryError):
        raise
    except Exception as error:  # of any kind: three libraries read files here
        raise LoadError(field, path, f"could not be loaded ({files.one_line(error)})") from error


def _load_pipeline(field: str, path: Source, vae: Source | None, dtype: torch.dtype, config: Path) -> Any:
    """The pipeline of a checkpoint: a folder's own class, or a StableDiffusionPipeline of a single file."""
    components = {}
    if vae is not None:
        with _loading("vae", vae):
            components["vae"] = _load_vae("vae", vae, dtype, config)
    with _loading(field, path):
        if not os.path.isdir(path):
            return _load_file(field, path, dtype, config, **components)
        cls = getattr(diffusers, _json(Path(path, "model_index.json"))["_class_name"])
        if cls is diffusers.StableDiffusionPipeline:
            components.update(safety_checker=None, requires_safety_checker=False)
        halves = not [file for file in Path(path, "unet").iterdir()
                      if file.suffix in (".safetensors", ".bin") and ".fp16." not in file.name]
        return cls.from_pretrained(
            os.fspath(path), torch_dtype=dtype, local_files_only=True, variant="fp16" if halves else None, **components)


def _load_file(field: str, path: Source, dtype: torch.dtype, config: Path, **components: Any) -> Any:
    """A StableDiffusionPipeline of a single file in the original layout; ``components`` may bring its VAE."""
    tensors = _tensors(field, path)
    unet = diffusers.UNet2DConditionModel.from_single_file(
        dict(tensors), config=str(config), subfolder="unet", torch_dtype=dtype, local_files_only=True)
    if not components:
        own = _has(tensors, "first_stage_model.")
        components["vae"] = _load_vae(field, path, dtype, config) if own else None
    return diffusers.StableDiffusionPipeline(
        unet=_complete(unet), text_encoder=_load_text_encoder(tensors, dtype, config), tokenizer=_load_tokenizer(),
        scheduler=diffusers.DDIMScheduler.from_pretrained(str(config), subfolder="scheduler", local_files_only=True),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, **components)


def _load_vae(field: str, path: Source, dtype: torch.dtype, config: Path) -> Any:
    """The VAE of a checkpoint or VAE file, or of a folder."""
    if os.path.isdir(path):
        return diffusers.AutoencoderKL.from_pretrained(os.fspath(path), torch_dtype=dtype, local_files_only=True)
    return _complete(diffusers.AutoencoderKL.from_single_file(
        _tensors(field, path), config=str(config), subfolder="vae", torch_dtype=dtype, local_files_only=True))


def _load_text_encoder(tensors: Tensors, dtype: torch.dtype, config: Path) -> Any:
    """The CLIP text encoder of a checkpoint. Old merges leave out ``text_model.``, and so does transformers 5."""
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights():
        model = CLIPTextModel(CLIPTextConfig.from_pretrained(str(config / "text_encoder"), local_files_only=True))
    wrapper = "text_model." if hasattr(model, "text_model") else ""
    prefix = "cond_stage_model.transformer."
    state = {wrapper + name.removeprefix(prefix).removeprefix("text_model."): tensor
             for name, tensor in tensors.items() if name.startswith(prefix) and not name.endswith("position_ids")}
    model.load_state_dict(state, strict=False, assign=True)
    return _complete(model).to(dtype).eval()


def _load_tokenizer() -> Any:
    """CLIP's tokenizer, from its merges.

    Its vocabulary is the 256 bytes as printable characters, the same ending a word, what each merge makes, and the two
    marks of a text's start and end. Source: openai/CLIP, ``simple_tokenizer.py``.
    """
    from transformers import CLIPTokenizer

    merges = gzip.decompress((SD15 / "tokenizer" / "merges.txt.gz").read_bytes()).decode()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in (*printable, *range(256, 512 - len(printable)))]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters),
                  *(merge.replace(" ", "") for merge in merges.splitlines()[1:]), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:  # files are what every release of transformers reads
        Path(folder, "merges.txt").write_text(merges, encoding="utf-8")
        Path(folder, "vocab.json").write_text(
            json.dumps({token: number for number, token in enumerate(vocabulary)}), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_bytes((SD15 / "tokenizer" / "tokenizer_config.json").read_bytes())
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _load_motion(path: Source, dtype: torch.dtype) -> Any:
    """The MotionAdapter of a single file or a folder. Raises LoadError, FileError, RuntimeError: weights do not fit."""
    from accelerate import init_empty_weights

    if os.path.isdir(path):
        return diffusers.MotionAdapter.from_pretrained(os.fspath(path), torch_dtype=dtype, local_files_only=True)
    found = read_module(path, "cpu")
    state = to_diffusers(found.with_tables())
    for name in [name for name in state if ".pos_encoder." in name]:  # what is left is the second attention's
        table = state.pop(name)
        if not torch.equal(table, state[name.replace(".attn2.pos_encoder.", ".pos_embed.")]):
            raise LoadError("motion_module", path, f"has two position tables that differ ({name})")
    with init_empty_weights():
        adapter = diffusers.MotionAdapter(
            block_out_channels=found.layout.widths, motion_layers_per_block=found.layout.layers,
            use_motion_mid_block=found.layout.middle, motion_max_seq_length=found.layout.positions,
            motion_num_attention_heads=found.layout.heads, motion_norm_num_groups=found.layout.groups)
    adapter.load_state_dict(state, assign=True)
    return adapter.to(dtype).eval()


def _with_motion(unet: Any, adapter: Any) -> Any:
    """A UNetMotionModel that shares the weights of ``unet`` (2D, or one whose motion is replaced) and ``adapter``."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # from_unet2d itself would hold every weight twice
        model = diffusers.UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    frames = {name: tensor for name, tensor in unet.state_dict().items() if "motion_modules." not in name}
    model.load_state_dict({**frames, **adapter.state_dict()}, assign=True)
    return model.eval()


def _fuse_lora(pipeline: Any, path: Source, weight: float) -> None:
    """Add a LoRA to the UNet and the text encoder that it names. Raises ValueError where a name is not matched."""
    layers = {"unet_" + name.replace(".", "_"): layer for name, layer in pipeline.unet.named_modules()}
    layers.update({"te_" + name.removeprefix("text_model.").replace(".", "_"): layer
                   for name, layer in pipeline.text_encoder.named_modules()})
    lora.fuse(layers, path, weight)


def _complete(model: Any) -> Any:
    """``model``, every weight of which came from the file. Raises ValueError where some did not."""
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} weights of the {type(model).__name__} are missing, {missing[0]} among them")
    return model
