"""Settings in, clip out: chooses device and precision, loads the models, runs the sampler."""
from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..options import OptionError
from ..plan import Plan
from ..schedule import Schedule
from . import box, loading
from .pipeline import Clip, IVMixedPipeline, StepCallback, plan_of
from .settings import BOX, Settings

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """"auto": CUDA, then Apple's MPS, then the CPU. Raises OptionError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    if not there.get(name.split(":")[0]):
        raise OptionError("device", name, "auto, " + ", ".join(kind for kind, present in there.items() if present))
    return torch.device(name)


def complete(settings: Settings, device: torch.device) -> Settings:
    """The settings with what is left to chance or to the device filled in, so that they make the same clip again."""
    precision = settings.precision
    if precision == "auto":
        precision = "fp32" if device.type == "cpu" else "fp16"
    seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
    frames = settings.frames or (box.FRAMES if settings.checkpoint == BOX else 16)
    return replace(settings, precision=precision, seed=seed, frames=frames, cfg=_cfg(settings))


def _cfg(settings: Settings) -> float:
    suggested = box.CFG if settings.checkpoint == BOX else 7.5
    return suggested if settings.cfg is None else settings.cfg


def check(settings: Settings) -> None:
    """Refuses what can be refused without loading a model: OptionError, `loading.LoadError`."""
    checkpoint = _checkpoint(settings)
    kind = loading.check(checkpoint, settings.motion_module, image_checkpoint=settings.image_checkpoint,
                         image_lora=settings.image_lora, vae=settings.vae)
    if kind == loading.MODELSCOPE and settings.image_checkpoint is None:
        raise loading.LoadError("image_checkpoint", None, f"is missing: {checkpoint} has no image model in it")
    if not settings.prompt.strip():
        raise OptionError("prompt", settings.prompt, "a text that says what the clip shows", "is empty")
    plan(settings)


def plan(settings: Settings) -> Plan:
    """The moves that a run with these settings makes, from the noise tables alone; no model is loaded."""
    video, image = noise_tables(settings)
    return plan_of(video, image, settings.steps, settings.options, cfg_scale=_cfg(settings),
                   solver=settings.solver, loop=settings.loop, vae_scale=_vae_scale(Path(_checkpoint(settings))))


def noise_tables(settings: Settings) -> tuple[Schedule, Schedule]:
    """The tables of the video and of the image model: single files have AnimateDiff's and Stable Diffusion's, a
    diffusers folder says its own."""
    folder = Path(_checkpoint(settings))
    linear, scaled = Schedule.linear(), Schedule.scaled_linear()
    own = _folder_table(folder)
    video = linear if own is None or settings.motion_module else own
    other = settings.image_checkpoint or (None if own is None or video is own else str(folder))
    return video, (_folder_table(Path(other)) if other else None) or scaled


def _vae_scale(folder: Path) -> int:
    """Pixels a latent pixel, on a side: Stable Diffusion's 8, unless a diffusers folder says otherwise."""
    config = folder / "vae" / "config.json"
    return 2 ** (len(json.loads(config.read_text())["block_out_channels"]) - 1) if config.is_file() else 8


def _folder_table(folder: Path) -> Schedule | None:
    """The table that a diffusers folder's scheduler has."""
    from diffusers import DDIMScheduler

    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        return None
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return Schedule(DDIMScheduler.from_config(config).alphas_cumprod.tolist())


def load(settings: Settings, device: torch.device, *, offload: bool = False, vae_slicing: bool = False,
         attention_slicing: bool = False) -> IVMixedPipeline:
    """The models of ``settings`` (`complete` ones) on ``device``.

    ``offload``: models stay on the CPU while they are not needed (diffusers' model offload). ``vae_slicing``: the VAE
    takes one frame at a time. ``attention_slicing``: attention is computed in parts. Raises `loading.LoadError`.
    """
    dtype = _DTYPES[settings.precision]
    video = loading.load_video(_checkpoint(settings), settings.motion_module, vae=settings.vae, dtype=dtype)
    image = None
    if settings.image_checkpoint or settings.image_lora:
        image = loading.load_image(settings.image_checkpoint or _checkpoint(settings), loras=settings.image_lora,
                                   dtype=dtype)
        image.vae = None  # latents go in and come out
    if vae_slicing:
        video.vae.enable_slicing()
    for pipeline in filter(None, (video, image)):
        if attention_slicing:
            pipeline.enable_attention_slicing()
        if offload and device.type != "cpu":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            with loading.quiet():
                pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
    return IVMixedPipeline(video, image, noise_tables(settings)[1])


def generate(settings: Settings, device: str = "auto", *, pipe: IVMixedPipeline | None = None,
             callback_on_step_end: StepCallback | None = None, progress: bool = True, **memory: bool) -> Clip:
    """Makes the clip of ``settings``::

        from ivmixed.standalone import Settings, generate

        clip = generate(Settings(
            checkpoint="sd15.safetensors", motion_module="mm_sd15_v3.safetensors",
            prompt="a red kite over a beach, waves rolling in", negative_prompt="blurry, low quality",
            size=(512, 512), seed=1, options={"gamma_go": [4, 2], "interval": [0, 50]},
        ))
        print(clip.plan.describe(), clip.seconds)
        clip.save("kite.mp4")

    ``pipe``: models that `load` returned, to make several clips. ``memory``: the switches of `load`. Everything is
    checked before a model is loaded: OptionError and `loading.LoadError` say what is wrong in one line.
    """
    target = choose_device(device)
    settings = complete(settings, target)
    check(settings)
    pipe = pipe or load(settings, target, **memory)
    width, height = settings.size or pipe.size
    clip = pipe(
        settings.prompt, settings.negative_prompt, frames=settings.frames or 0, width=width, height=height,
        steps=settings.steps, cfg_scale=_cfg(settings), seed=settings.seed or 0, options=settings.options,
        solver=settings.solver, loop=settings.loop, image_chunk=settings.image_chunk, fps=settings.fps,
        callback_on_step_end=callback_on_step_end, progress=progress,
    )
    made: dict[str, Any] = replace(settings, size=(width, height)).to_dict()
    return replace(clip, settings=made)


def _checkpoint(settings: Settings) -> str:
    return str(box.MODEL) if settings.checkpoint == BOX else settings.checkpoint
