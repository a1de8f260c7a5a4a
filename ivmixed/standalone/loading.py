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
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers  # its names load when they are first used, so `check` stays quick
import torch

from ..motion.loading import Found, as_animatediff, to_diffusers, widths
from ..motion.loading import read as read_module
from ..untrusted import Refusal, shown
from ..weights import files, lora
from ..weights.files import CHECKPOINT, CONTROLNET, FAMILIES, LORA, MOTION, VAE, Source, Tensors
from ..weights.noise import Noise, NoiseError
from . import assemble, control, folders, videocrafter
from .folders import Folder, FolderError, make_tokenizer
from .text_to_video import TextToVideoPipeline

SD15 = Path(__file__).with_name("sd15")

FOLDER = "a diffusers folder of "
MODELSCOPE, ANIMATEDIFF = FOLDER + folders.MODELSCOPE, FOLDER + folders.ANIMATEDIFF
STABLE_DIFFUSION = FOLDER + folders.STABLE_DIFFUSION
VIDEOCRAFTER = f"a checkpoint of {videocrafter.NAME}"
BY_ITSELF = (MODELSCOPE, VIDEOCRAFTER)
"""Video models that are no image model with motion modules."""
OURS = " for SD 1.5"

EXPECTED: dict[str, tuple[str, ...]] = {
    "checkpoint": (CHECKPOINT + OURS, VIDEOCRAFTER, STABLE_DIFFUSION, ANIMATEDIFF, MODELSCOPE),
    "motion_module": (MOTION + OURS, FOLDER + "MotionAdapter"),
    "image_checkpoint": (CHECKPOINT + OURS, STABLE_DIFFUSION),
    "lora": (LORA + OURS,),
    "image_lora": (LORA + OURS,),
    "vae": (VAE, FOLDER + "AutoencoderKL"),
    "controlnet": (CONTROLNET + OURS, FOLDER + "ControlNetModel"),
}
"""What each argument may name, in the words that `_kind` says of a file or folder."""

Loras = Sequence[tuple[Source, float]]


class LoadError(Refusal):
    """A file was refused. ``field`` is the argument, ``value`` the path given, the message one line."""

    def __init__(self, field: str, value: Source | None, problem: str):
        self.field, self.value = field, value
        path = None if value is None else shown(os.fspath(value))
        super().__init__(f"IV-mixed: {field} = {path} {problem}; expected: {' or '.join(EXPECTED[field])}.")


def check(
    checkpoint: Source,
    motion_module: Source | None = None,
    *,
    image_checkpoint: Source | None = None,
    lora: Loras = (),
    image_lora: Loras = (),
    vae: Source | None = None,
    config: Path = SD15,
) -> str:
    """Refuse whatever can be refused without reading weights, and return what the checkpoint is, in words.

    Arguments as of `load_video` and, with ``image_``, of `load_image`; LoRAs without an ``image_checkpoint`` are for
    ``checkpoint``. Reads the headers of safetensors files, the pickled names of .ckpt files and the JSON of folders,
    and compares every name and shape with the networks'.
    (A .ckpt in the format that PyTorch wrote before 1.6 has no header, and is read whole.)
    Raises LoadError: a file is missing, damaged, incomplete or of another kind, or does not go with the checkpoint.
    """
    kind = _check_checkpoint("checkpoint", checkpoint, config, _replaced(vae, motion_module))
    if vae is not None:
        _check_vae(vae, checkpoint, config)
    elif not os.path.isdir(checkpoint) and not _has(_header("checkpoint", checkpoint), "first_stage_model."):
        raise LoadError("vae", None, f"is missing: {checkpoint} has no VAE of its own")
    if motion_module is not None:
        if kind in BY_ITSELF:
            raise LoadError("motion_module", motion_module, f"has no place in {checkpoint}, a video model by itself")
        _check_motion(motion_module, _unet_config(checkpoint, config))
    elif kind in (STABLE_DIFFUSION, CHECKPOINT + OURS) or (
            kind == ANIMATEDIFF and not _folder("checkpoint", checkpoint).has_motion):
        raise LoadError("motion_module", None, f"is missing: {checkpoint} has no motion of its own")
    for path, _ in lora:
        _kind("lora", path, _unet_config(checkpoint, config))
    if image_checkpoint is not None:
        _check_checkpoint("image_checkpoint", image_checkpoint, config)
    elif image_lora and kind in (ANIMATEDIFF, *BY_ITSELF):
        raise LoadError("image_checkpoint", None, f"is missing: LoRAs have no place in {checkpoint}, a video model")
    for path, _ in image_lora:
        _kind("image_lora", path, _unet_config(image_checkpoint or checkpoint, config))
    return kind


def check_controlnet(path: Source, models: Sequence[Source], config: Path = SD15) -> None:
    """Refuse what is no ControlNet for all of ``models``, checkpoints that `check` has passed, without reading weights.

    Raises LoadError.
    """
    for model in models:
        unet = _unet_config(model, config)
        _kind("controlnet", path, unet)
        with _refusing("controlnet", path):
            own, state = _control_parts(path, unet)
            control.check(own, unet, vae_scale(model))
            if state is None:
                folders.load_part(Path(path), "controlnet", "ControlNetModel", None)
            else:
                assemble.compare(state, assemble.shapes("ControlNetModel", own))


def load_controlnet(path: Source, model: Source, *, dtype: torch.dtype = torch.float32,
                    config: Path = SD15) -> diffusers.ControlNetModel:
    """A ControlNet, on the CPU in ``dtype``: a file in the original layout or diffusers', or a diffusers folder.

    ``model``: a checkpoint that it acts on, as a file or folder. Raises LoadError.
    """
    check_controlnet(path, [model], config)
    with _loading("controlnet", path):
        if os.path.isdir(path):
            return folders.load_part(Path(path), "controlnet", "ControlNetModel", dtype)
        own, state = _control_parts(path, _unet_config(model, config), "cpu")
        assert state is not None
        return assemble.build("ControlNetModel", own, state, dtype)


def _control_parts(
    path: Source, unet: Mapping[str, Any], device: str = "meta",
) -> tuple[dict[str, Any], Tensors | None]:
    """The configuration of a ControlNet, and the tensors of a file; None of a folder. Raises LoadError, ValueError."""
    if os.path.isdir(path):
        return folders.read_object(Path(path, "config.json")), None
    tensors = _tensors("controlnet", path, device)
    own = assemble.control_config(tensors, unet)
    return own, assemble.control_state(tensors, own)


def _replaced(vae: Source | None, motion_module: Source | None) -> tuple[str, ...]:
    """The parts of a checkpoint that other files take the place of."""
    given = {"vae": vae, "motion_adapter": motion_module}
    return tuple(part for part, path in given.items() if path is not None)


def most_frames(checkpoint: Source, motion_module: Source | None = None) -> int | None:
    """The most frames that the motion module has positions for, of files that `check` has passed; None: any number.

    VideoCrafter2 has no positions: see `videocrafter.check_frames`."""
    if motion_module is not None:
        if not os.path.isdir(motion_module):
            return _motion_found(os.path.abspath(motion_module), os.stat(motion_module).st_mtime_ns).layout.positions
        config = folders.read_object(Path(motion_module, "config.json"))
        return assemble.whole(config, "motion_max_seq_length", 32)
    folder = _folder("checkpoint", checkpoint) if os.path.isdir(checkpoint) else None
    if folder is None or folder.pipeline != folders.ANIMATEDIFF:
        return None
    own = folder.classes()["unet"] == "UNetMotionModel"
    config = folder.config("unet") if own else folder.config("motion_adapter")
    return assemble.whole(config, "motion_max_seq_length", 32)


def motion_found(motion_module: Source | None) -> Found | None:
    """What a motion module is, a file or folder; None where there is none, or no proper one, which `check` refuses."""
    try:
        if motion_module is None:
            return None
        return _motion_found(os.path.abspath(motion_module), os.stat(motion_module).st_mtime_ns)
    except (files.FileError, OSError):
        return None


@lru_cache(maxsize=8)
def _motion_found(path: str, changed: int) -> Found:
    """``changed``: when the file was, so that it is read anew after that."""
    return read_module(path, "meta")


def is_videocrafter(checkpoint: Source) -> bool:
    """Whether a file or folder is VideoCrafter2; not where there is none. Raises LoadError."""
    if os.path.isdir(checkpoint):
        return _folder("checkpoint", checkpoint).is_videocrafter
    return os.path.isfile(checkpoint) and videocrafter.kind(_header("checkpoint", checkpoint)) == videocrafter.NAME


def vae_scale(checkpoint: Source) -> int:
    """Pixels a latent pixel, on a side: Stable Diffusion's 8, unless a diffusers folder says otherwise.

    Raises LoadError."""
    config = Path(checkpoint, "vae", "config.json")
    with _refusing("checkpoint", checkpoint):
        blocks = folders.read_object(config).get("block_out_channels") if config.is_file() else [128, 256, 512, 512]
        if not isinstance(blocks, list) or not 1 <= len(blocks) <= assemble.MOST_BLOCKS:
            raise FolderError(f"has a vae/config.json with block_out_channels = {shown(blocks, 60)}")
        return int(2 ** (len(blocks) - 1))


def noise(field: str, path: Source) -> Noise:
    """What a checkpoint says that it predicts and was trained on; Stable Diffusion's where there is no such file.

    ``field``: "checkpoint" or "image_checkpoint". Raises LoadError.
    """
    if os.path.isdir(path):
        with _refusing(field, path):
            return _folder(field, path).noise()
    if not os.path.isfile(path):
        return Noise()
    return _noise_of_file(field, os.path.abspath(path), os.stat(path).st_mtime_ns)


def video_noise(checkpoint: Source, motion_module: Source | None, prediction: str | None = None,
                zero_snr: bool | None = None) -> Noise:
    """The same of the video model: AnimateDiff's motion modules bring a table of their own. Raises LoadError."""
    own = noise("checkpoint", checkpoint).override(prediction, zero_snr)
    if is_videocrafter(checkpoint):
        if own.prediction != "epsilon":
            raise LoadError("checkpoint", checkpoint, f"is {VIDEOCRAFTER}, which predicts noise, not {own.prediction}")
        return replace(own, scaled=True)
    whole = os.path.isdir(checkpoint) and motion_module is None
    return own if whole else own.with_motion()


def load_video(
    checkpoint: Source,
    motion_module: Source | None = None,
    *,
    lora: Loras = (),
    vae: Source | None = None,
    prediction: str | None = None,
    zero_snr: bool | None = None,
    dtype: torch.dtype = torch.float32,
    config: Path = SD15,
) -> diffusers.DiffusionPipeline:
    """The video model, on the CPU in ``dtype``: an AnimateDiffPipeline or, of a video model by itself, a
    `TextToVideoPipeline`.

    ``checkpoint``: a single SD 1.5 or VideoCrafter2 file in the original layout (safetensors, or what ``torch.save``
    wrote), or a diffusers folder of a StableDiffusionPipeline, an AnimateDiffPipeline or a TextToVideoSDPipeline
    (ModelScope, zeroscope, VideoCrafter2's conversions).
    ``motion_module``: AnimateDiff v1, v2 or v3 and their like in a single file, or a diffusers MotionAdapter folder;
    needed where the checkpoint has no motion of its own, and replaces that of an AnimateDiffPipeline.
    ``lora``: (file, weight) pairs, in kohya's or diffusers' layout, fused into UNet and text encoder in this order.
    ``vae``: a single VAE file or a diffusers AutoencoderKL folder, in place of the checkpoint's own.
    ``prediction`` ("epsilon", "v_prediction") and ``zero_snr`` (zero terminal SNR) win over what the checkpoint says.
    ``config``: the diffusers folder with the configurations of a single file's components.

    ``unet.config.motion_max_seq_length`` of an AnimateDiffPipeline is the number of frames it has positions for. Its
    scheduler is DDIM on AnimateDiff's linear betas, unless the folder brings motion and scheduler itself.
    Raises LoadError.
    """
    check(checkpoint, motion_module, lora=lora, vae=vae, config=config)
    parts = _load_parts("checkpoint", checkpoint, dtype, config, _replaced(vae, motion_module))
    if vae is not None:
        with _loading("vae", vae):
            parts["vae"] = _load_vae(vae, _vae_config(checkpoint, config), dtype)
    if motion_module is not None:
        with _loading("motion_module", motion_module):
            parts["motion_adapter"] = _load_motion(motion_module, dtype)
    with _loading("checkpoint", checkpoint):
        adapter = parts.pop("motion_adapter", None)
        if adapter is not None:
            parts["unet"] = _with_motion(parts["unet"], adapter)
        _fuse("lora", parts, lora)
        parts["scheduler"] = video_noise(checkpoint, motion_module, prediction, zero_snr).scheduler()
        if isinstance(parts["unet"], diffusers.UNet3DConditionModel):
            return TextToVideoPipeline(**parts)
        return diffusers.AnimateDiffPipeline(**parts, motion_adapter=None)


def load_image(
    checkpoint: Source,
    *,
    loras: Loras = (),
    prediction: str | None = None,
    zero_snr: bool | None = None,
    dtype: torch.dtype = torch.float32,
    config: Path = SD15,
) -> diffusers.StableDiffusionPipeline:
    """The image model, on the CPU in ``dtype``.

    ``checkpoint``: a single SD 1.5 file or a diffusers folder of a StableDiffusionPipeline, see `load_video`. A file
    without a VAE is fine here, and gives ``vae`` None: the image model takes and gives latents.
    ``loras``: (file, weight) pairs, in kohya's or diffusers' layout, fused into UNet and text encoder in this order.
    ``prediction``, ``zero_snr``: as of `load_video`.
    The scheduler is DDIM on the checkpoint's own table, SD 1.5's where it says nothing; no safety checker is loaded.
    Raises LoadError.
    """
    _check_checkpoint("image_checkpoint", checkpoint, config)
    for path, _ in loras:
        _kind("image_lora", path, _unet_config(checkpoint, config))
    parts = _load_parts("image_checkpoint", checkpoint, dtype, config)
    _fuse("image_lora", parts, loras)
    with _loading("image_checkpoint", checkpoint):
        parts["scheduler"] = noise("image_checkpoint", checkpoint).override(prediction, zero_snr).scheduler()
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


# What a file or folder is


def _kind(field: str, path: Source, unet: Mapping[str, Any]) -> str:
    """What ``path`` is, one of EXPECTED[field]. ``unet``: the configuration that LoRAs and modules have to fit."""
    if not os.path.exists(path):
        raise LoadError(field, path, "does not exist")
    with _refusing(field, path):
        kind = _folder_kind(Path(path), unet) if os.path.isdir(path) else _file_kind(_header(field, path), unet)
    if kind not in EXPECTED[field]:
        raise LoadError(field, path, f"is {kind}")
    return kind


def _folder_kind(path: Path, unet: Mapping[str, Any]) -> str:
    if not (path / "model_index.json").is_file() and (path / "config.json").is_file():  # of a part
        config = folders.read_object(path / "config.json")
        kind = FOLDER + shown(config.get("_class_name"), 60)
        if kind == FOLDER + "MotionAdapter" and isinstance(config.get("block_out_channels"), list):
            return (kind + _motion_family(config["block_out_channels"], unet)).removesuffix(OURS)
        if kind == FOLDER + "ControlNetModel":
            return (kind + _family(config.get("cross_attention_dim"), unet)).removesuffix(OURS)
        return kind
    folder = Folder(path)
    if folder.is_videocrafter:
        return VIDEOCRAFTER
    kind = FOLDER + shown(folder.pipeline, 60)
    if kind == STABLE_DIFFUSION and (path / "unet" / "config.json").is_file():
        width = folder.config("unet").get("cross_attention_dim")
        return kind + (f" for {FAMILIES[width]}" if isinstance(width, int) and width in FAMILIES else "")
    return kind


def _file_kind(tensors: Tensors, unet: Mapping[str, Any]) -> str:
    kin = videocrafter.kind(tensors)
    if kin is not None:
        return VIDEOCRAFTER if kin == videocrafter.NAME else kin
    kind = files.kind(tensors)
    if kind == MOTION:
        return kind + _motion_family(widths(as_animatediff(tensors)), unet)
    if kind == CONTROLNET:
        return kind + _control_family(tensors, unet)
    if kind in (CHECKPOINT, LORA):
        channels = _width(tensors, r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$")
        if channels not in (None, unet["in_channels"]):
            return f"{kind} for inpainting or editing ({channels} input channels)"
        width = _width(tensors, r"attn2[._](processor\.)?to_k(\.weight|[._]lora[._](down|A))")
        return kind + _family(width, unet)
    if kind == VAE:
        channels = _width(tensors, r"decoder\.conv_in\.weight$")
        return kind if channels == unet["in_channels"] else f"{kind} for latents of {channels} channels"
    return kind


def _family(width: Any, unet: Mapping[str, Any]) -> str:
    """Of a model that reads text of a ``width``; None: it does not say."""
    known = FAMILIES.get(width) if isinstance(width, int) else None
    return OURS if width in (None, unet["cross_attention_dim"]) else f" for {known or f'text of width {width}'}"


def _control_family(tensors: Tensors, unet: Mapping[str, Any]) -> str:
    """What a ControlNet is for, or in which way it is another."""
    if any("motion_modules." in name for name in tensors):
        return " with layers over time (SparseCtrl)"
    if "difference" in tensors:
        return " that holds differences from a checkpoint's weights (choose the whole one)"
    if any(re.search(r"(^|\.)(add_embedding|label_emb)\.", name) for name in tensors):
        return " for SDXL"
    return _family(_width(tensors, r"attn2\.to_k\.weight$"), unet)


def _motion_family(widths: Sequence[int], unet: Mapping[str, Any]) -> str:
    if list(widths) == list(unet["block_out_channels"]):
        return OURS
    return " for SDXL" if list(widths) == [320, 640, 1280] else f" for blocks of {shown(list(widths), 60)} channels"


def _width(tensors: Tensors, pattern: str) -> int | None:
    """Input width of the first layer whose name matches, or None. Raises FileError."""
    return next((files.shape(name, tensor, (2, 4))[1] for name, tensor in tensors.items() if re.search(pattern, name)),
                None)


# That it is whole


def _check_checkpoint(field: str, path: Source, config: Path, but: Sequence[str] = ()) -> str:
    """The kind of a checkpoint that has all that it should have, and nothing that would stay unused.

    ``but``: parts that something else takes the place of."""
    kind = _kind(field, path, _json(config / "unet" / "config.json"))
    with _refusing(field, path):
        if os.path.isdir(path):
            Folder(path).check(but)
            return kind
        tensors = _header(field, path)
        if not _has(tensors, videocrafter.TEXT if kind == VIDEOCRAFTER else "cond_stage_model.transformer."):
            raise LoadError(field, path, "has no text encoder")
        for part, (name, values, state) in _parts_of(tensors, config).items():
            with _of_part(part):
                assemble.compare(state, assemble.shapes(name, values))
    noise(field, path)
    return kind


def _parts_of(tensors: Tensors, config: Path) -> dict[str, tuple[str, Mapping[str, Any], Tensors]]:
    """Class, configuration and tensors of the parts of a single file. Raises ValueError for what is left over."""
    values = {part: _json(config / part / "config.json") for part in ("unet", "vae", "text_encoder")}
    if videocrafter.kind(tensors) == videocrafter.NAME:
        return videocrafter.parts_of(tensors, values["vae"])
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")
    assemble.left_over(name for name in tensors if not name.startswith(prefixes) and not assemble.HARMLESS.match(name))
    parts: dict[str, tuple[str, Mapping[str, Any], Tensors]] = {}
    with _of_part("unet"):
        parts["unet"] = "UNet2DConditionModel", values["unet"], assemble.unet_state(tensors, values["unet"])
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("first_stage_model.")}
    if own:
        with _of_part("vae"):
            parts["vae"] = "AutoencoderKL", values["vae"], assemble.vae_state(own, values["vae"])
    text = assemble.text_state(tensors, values["text_encoder"], "cond_stage_model.transformer.")
    return {**parts, "text_encoder": ("CLIPTextModel", values["text_encoder"], text)}


@contextmanager
def _of_part(part: str) -> Iterator[None]:
    """A ValueError inside says which part of a checkpoint it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"has an incomplete or foreign {part}: it {error}") from error


def _check_vae(path: Source, checkpoint: Source, config: Path) -> None:
    unet = _unet_config(checkpoint, config)
    _kind("vae", path, unet)
    with _refusing("vae", path):
        own = _vae_config(checkpoint, config)
        if not os.path.isdir(path):
            state = assemble.vae_state(_header("vae", path), own)
            assemble.compare(state, assemble.shapes("AutoencoderKL", own))
            return
        folders.load_part(Path(path), "vae", "AutoencoderKL", None)
        given = folders.read_object(Path(path, "config.json"))
        if given.get("latent_channels", 4) != unet["in_channels"]:
            raise FolderError(f"is for latents of {shown(given.get('latent_channels'), 60)} channels")
        ours, theirs = (values.get("scaling_factor", 0.18215) for values in (own, given))
        if ours != theirs:
            raise FolderError(f"is for latents of another scale ({shown(theirs, 60)} in place of {shown(ours, 60)})")


def _check_motion(path: Source, unet: Mapping[str, Any]) -> None:
    _kind("motion_module", path, unet)
    with _refusing("motion_module", path):
        if os.path.isdir(path):
            folders.load_part(Path(path), "motion_module", "MotionAdapter", None)
        else:
            read_module(path, "meta")


def _unet_config(checkpoint: Source, config: Path) -> dict[str, Any]:
    """The configuration of the UNet of a checkpoint that was checked, a folder or a single file."""
    if not os.path.isdir(checkpoint) and is_videocrafter(checkpoint):
        return videocrafter.unet_config(_header("checkpoint", checkpoint))
    return _json(Path(checkpoint if os.path.isdir(checkpoint) else config, "unet", "config.json"))


def _vae_config(checkpoint: Source, config: Path) -> dict[str, Any]:
    own = Path(checkpoint, "vae", "config.json")
    return _json(own if own.is_file() else config / "vae" / "config.json")


# Reading


def _json(path: Path) -> dict[str, Any]:
    return folders.read_object(path)


def _folder(field: str, path: Source) -> Folder:
    with _refusing(field, path):
        return Folder(path)


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


@lru_cache(maxsize=8)
def _noise_of_file(field: str, path: str, changed: int) -> Noise:
    """``changed``: when the file was, so that it is read anew after that."""
    tensors = _header(field, path)
    if "alphas_cumprod" in tensors and tensors["alphas_cumprod"].numel() <= 1 << 16:
        tensors = {**tensors, "alphas_cumprod": _tensors(field, path)["alphas_cumprod"]}
    try:
        return Noise.of_tensors(tensors, Path(path))
    except NoiseError as error:
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
def _refusing(field: str, path: Source) -> Iterator[None]:
    """In silence, and what is wrong with ``path`` comes out as one line about it."""
    try:
        with quiet():
            yield
    except LoadError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise LoadError(field, path, str(error) if isinstance(error, ValueError) else files.one_line(error)) from error


@contextmanager
def _loading(field: str, path: Source) -> Iterator[None]:
    """In silence, and whatever the libraries raise comes out as one line about ``path``."""
    try:
        with quiet():
            yield
    except (LoadError, MemoryError):
        raise
    except FolderError as error:
        raise LoadError(field, path, str(error)) from error
    except Exception as error:  # of any kind: three libraries read files here
        raise LoadError(field, path, f"could not be loaded ({files.one_line(error)})") from error


def _load_parts(field: str, path: Source, dtype: torch.dtype, config: Path, but: Sequence[str] = ()) -> dict[str, Any]:
    """The parts of a checkpoint, a folder or a single file, by the names that pipelines have for them.

    ``but``: those that something else takes the place of."""
    with _loading(field, path):
        if os.path.isdir(path):
            return Folder(path).load(dtype, but)
        tensors = _tensors(field, path)
        parts = {part: assemble.build(*made, dtype) for part, made in _parts_of(tensors, config).items()
                 if part not in but}
        tokenizer = _load_tokenizer()
        if videocrafter.kind(tensors) == videocrafter.NAME:
            tokenizer.pad_token = videocrafter.PADDING
        return {"vae": None, **parts, "tokenizer": tokenizer}


def _load_vae(path: Source, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A VAE file, of the checkpoint's configuration, or a folder with its own."""
    if os.path.isdir(path):
        return folders.load_part(Path(path), "vae", "AutoencoderKL", dtype)
    return assemble.build("AutoencoderKL", config, assemble.vae_state(_tensors("vae", path), config), dtype)


def _load_tokenizer() -> Any:
    """CLIP's tokenizer, from its merges.

    Its vocabulary is the 256 bytes as printable characters, the same ending a word, what each merge makes, and the two
    marks of a text's start and end. Source: openai/CLIP, ``simple_tokenizer.py``.
    """
    merges = gzip.decompress((SD15 / "tokenizer" / "merges.txt.gz").read_bytes()).decode().splitlines()[1:]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in (*printable, *range(256, 512 - len(printable)))]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters),
                  *(merge.replace(" ", "") for merge in merges), "<|startoftext|>", "<|endoftext|>"]
    return make_tokenizer({token: number for number, token in enumerate(vocabulary)}, merges,
                          folders.read_object(SD15 / "tokenizer" / "tokenizer_config.json"))


def _load_motion(path: Source, dtype: torch.dtype) -> Any:
    """The MotionAdapter of a single file or a folder. Raises LoadError, ValueError where weights do not fit."""
    if os.path.isdir(path):
        return folders.load_part(Path(path), "motion_module", "MotionAdapter", dtype)
    found = read_module(path, "cpu")
    state = to_diffusers(found.with_tables())
    for name in [name for name in state if ".pos_encoder." in name]:  # what is left is the second attention's
        table = state.pop(name)
        if not torch.equal(table, state[name.replace(".attn2.pos_encoder.", ".pos_embed.")]):
            raise LoadError("motion_module", path, f"has two position tables that differ ({name})")
    config = {
        "block_out_channels": list(found.layout.widths), "motion_layers_per_block": found.layout.layers,
        "use_motion_mid_block": found.layout.middle, "motion_max_seq_length": found.layout.positions,
        "motion_num_attention_heads": found.layout.heads, "motion_norm_num_groups": found.layout.groups}
    return assemble.build("MotionAdapter", config, state, dtype)


def _with_motion(unet: Any, adapter: Any) -> Any:
    """A UNetMotionModel that shares the weights of ``unet`` (2D, or one whose motion is replaced) and ``adapter``."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # from_unet2d itself would hold every weight twice
        model = diffusers.UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    frames = {name: tensor for name, tensor in unet.state_dict().items() if "motion_modules." not in name}
    model.load_state_dict({**frames, **adapter.state_dict()}, assign=True)
    return model.eval()


def _fuse(field: str, parts: Mapping[str, Any], loras: Loras) -> None:
    """Add LoRAs to the UNet and the text encoder that they name. Raises LoadError where a name is not matched."""
    for path, weight in loras:
        with _loading(field, path):
            layers = {"unet_" + name.replace(".", "_"): layer for name, layer in parts["unet"].named_modules()}
            layers.update({"te_" + name.removeprefix("text_model.").replace(".", "_"): layer
                           for name, layer in parts["text_encoder"].named_modules()})
            lora.fuse(layers, path, weight)
