"""Settings in, clip out: chooses device and precision, loads the models, runs the sampler."""
from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..clips.encode import Frames
from ..clips.source import crop_and_resize, take
from ..controls import check_reuse
from ..motion.module import Distilled
from ..neighbours import check_attention
from ..options import ConflictError, OptionError
from ..plan import Move, Plan
from ..schedule import Schedule
from ..untrusted import shown
from ..weights.noise import IN_FOLDERS, SCALED_LINEAR, Noise
from . import box, loading, videocrafter
from .control import Control
from .motion import check as check_motion
from .motion import check_start
from .pipeline import Clip, IVMixedPipeline, StepCallback, check_acts_on, check_prompts, plan_of
from .settings import BOX, STRENGTH, Settings

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """"auto": CUDA, then Apple's MPS, then the CPU. Raises OptionError for a device that is not there."""
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    match = re.fullmatch(r"(cuda|mps|cpu)(?::(\d{1,3}))?", name, re.ASCII)
    if match is None or int(match[2] or 0) >= there[match[1]]:
        names = [kind if count == 1 else f"{kind} or {kind}:0 to {kind}:{count - 1}"
                 for kind, count in there.items() if count]
        raise OptionError("device", shown(name), "auto, " + ", ".join(names))
    return torch.device(name)


def complete(settings: Settings, device: torch.device) -> Settings:
    """The settings with what is left to chance or to the device filled in, so that they make the same clip again.

    Without a number of frames a clip that begins with another has as many as that, and one with ControlNets as many as
    the shortest of their videos, stills aside; no more than the usual. Raises MediaError.
    """
    precision = settings.precision
    if precision == "auto":
        precision = "fp32" if device.type == "cpu" else "fp16"
    seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
    fps, playback = settings.fps or Clip.fps, settings.playback_fps
    if is_told_fps(settings):
        fps, playback = settings.fps or videocrafter.FPS, playback or Clip.fps
    solver, spacing = _stepping(settings)
    return replace(settings, precision=precision, seed=seed, frames=_frames(settings), steps=_steps(settings),
                   cfg=_cfg(settings), solver=solver, spacing=spacing, fps=fps, playback_fps=playback,
                   strength=_strength(settings))


def _distilled(settings: Settings) -> Distilled | None:
    module = loading.motion_found(settings.motion_module)
    return None if module is None else module.kind.distilled


def _stepping(settings: Settings) -> tuple[str | None, str | None]:
    """The solver and the spacing."""
    distilled = _distilled(settings)
    if distilled is None or settings.loop:
        return settings.solver, settings.spacing
    return settings.solver or distilled.solver, settings.spacing or "trailing"


def _strength(settings: Settings) -> float | None:
    return STRENGTH if settings.init_video and settings.strength is None else settings.strength


def _frames(settings: Settings) -> int:
    frames = settings.frames
    if frames is None:
        frames = most = box.FRAMES if settings.checkpoint == BOX else 16

        def there(video: str) -> int:
            return len(take(video, None, playback(settings), most=most, fit=_small).frames)

        if settings.init_video is not None:
            frames = there(settings.init_video)
        else:
            frames = min([count for count in map(there, settings.control_video) if count > 1], default=frames)
    return frames


def _steps(settings: Settings) -> int:
    distilled = _distilled(settings)
    return settings.steps or (distilled.most if distilled else 25)


def _cfg(settings: Settings) -> float:
    suggested = box.CFG if settings.checkpoint == BOX else 1.0 if _distilled(settings) else 7.5
    return suggested if settings.cfg is None else settings.cfg


def is_told_fps(settings: Settings) -> bool:
    """Whether the video model is told the frames a second. Raises `loading.LoadError`."""
    return loading.is_videocrafter(_checkpoint(settings))


def playback(settings: Settings) -> float:
    """Frames a second at which the clip plays. Raises `loading.LoadError`."""
    own = None if is_told_fps(settings) else settings.fps
    return settings.playback_fps or own or Clip.fps


def check(settings: Settings) -> None:
    """Refuses what can be refused without loading a model: OptionError, `loading.LoadError`, MediaError."""
    checkpoint = _checkpoint(settings)
    if not settings.prompt.strip():
        raise OptionError("prompt", settings.prompt, "a text that says what the clip shows", "is empty")
    for name in ("image_prediction", "image_zero_snr"):
        if getattr(settings, name) is not None and settings.image_checkpoint is None:
            raise ConflictError(name, getattr(settings, name), "the checkpoint as the image model",
                                because="it is said of another one", remedy="give image_checkpoint, or leave it out")
    kind = loading.check(checkpoint, settings.motion_module, image_checkpoint=settings.image_checkpoint,
                         lora=settings.lora, image_lora=settings.image_lora, vae=settings.vae)
    if kind in loading.BY_ITSELF and settings.image_checkpoint is None:
        raise loading.LoadError("image_checkpoint", None, f"is missing: {checkpoint} has no image model in it")
    if kind == loading.VIDEOCRAFTER:
        videocrafter.check_frames(settings.frames or 1)
    elif settings.fps and settings.playback_fps and settings.fps != settings.playback_fps:
        raise ConflictError("fps", settings.fps, "playback_fps", settings.playback_fps,
                            because="this model is not told the frames a second", remedy="give one of the two")
    check_words(settings)
    frames, most = _frames(settings), loading.most_frames(checkpoint, settings.motion_module)
    check_motion(settings, frames, most)
    if most is not None:
        check_reuse(settings.options, frames, settings.context)
    scale = loading.vae_scale(checkpoint)
    if any(side % scale for side in settings.size or ()):
        raise OptionError("size", settings.size, f"sides that are multiples of {scale} pixels with this checkpoint")
    if settings.init_video is None:
        for name in ("strength", "mask_video"):
            if getattr(settings, name) is not None:
                raise ConflictError(name, getattr(settings, name), "no init_video",
                                    because="it says what is made anew of that", remedy="give init_video too")
    else:
        check_start(settings)
    if settings.mask_video is not None and settings.options.image_size is not None:
        raise ConflictError("image_size", settings.options.image_size, "mask_video",
                            because="the mask has the clip's size", remedy="leave it empty")
    if settings.controlnet:
        check_acts_on("control_acts_on", settings.control_acts_on, most is not None)
    for network, *_ in _controls(settings):
        loading.check_controlnet(network, _controlled_models(settings))
    for video in _videos(settings):
        take(video, settings.frames, playback(settings), fit=_small)
    at_once = frames if most is None else min(frames, settings.context)
    check_attention(plan(settings), frames, settings.image_chunk or at_once)


def check_words(settings: Settings) -> None:
    """Refuses prompts: OptionError, TravelError. The model files are those that `check` has passed."""
    most = loading.most_frames(_checkpoint(settings), settings.motion_module)
    check_prompts(settings.prompt, settings.negative_prompt, settings.options, _frames(settings), most is not None)


def _controls(settings: Settings) -> list[tuple[str, str, dict[str, Any]]]:
    """Of each ControlNet its file, its video, and what `Control` is made of besides. Raises OptionError, ConflictError.
    """
    count = len(settings.controlnet)
    values = []
    for name in ("control_video", "control_strength", "control_start", "control_end"):
        option, given = Settings.option(name), getattr(settings, name)
        if not count:
            if given != option.default:
                raise ConflictError(name, option.to_text(given), "no controlnet", because="it says what one is told",
                                    remedy="give controlnet too")
        elif not given:
            raise OptionError(name, option.to_text(given), option.allowed, "is missing: a ControlNet needs hints")
        elif len(given) not in (1, count):
            raise ConflictError(name, option.to_text(given), f"{count} ControlNets", because=f"there are {len(given)}",
                                remedy="give one for all, or one for each")
        values.append(given * count if len(given) == 1 else given)
    for start, end in zip(*values[2:]):
        if start >= end:
            raise ConflictError("control_start", start, "control_end", end, because="no step is between them",
                                remedy="take a start below the end")
    return [(network, video, {"strength": strength, "start": start, "end": end, "acts_on": settings.control_acts_on})
            for network, video, strength, start, end in zip(settings.controlnet, *values)]


def _controlled_models(settings: Settings) -> list[str]:
    """The checkpoints that ControlNets act on."""
    video = _checkpoint(settings)
    image = settings.image_checkpoint or video
    return list(dict.fromkeys({"both": (video, image), "video": (video,), "image": (image,)}[settings.control_acts_on]))


def controlled(settings: Settings) -> Callable[[Move], int]:
    """How many ControlNets act in a move of the plan of ``settings``. Raises OptionError, ConflictError."""
    controls = [Control(_NO_HINTS, **told) for _, _, told in _controls(settings)]
    steps = plan(settings).steps
    return lambda move: sum(control.acts(move.model, move.step, steps) for control in controls)


_NO_HINTS = np.empty((0, 0, 0, 3), np.uint8)


def _videos(settings: Settings) -> list[str]:
    videos = [settings.init_video, settings.mask_video, *settings.control_video]
    return [video for video in videos if video is not None]


def _small(picture: Image.Image) -> Image.Image:
    """What is kept of a picture where only the number of frames is asked."""
    return picture.resize((1, 1))


def begins_with(settings: Settings) -> list[str]:
    """A line for each of the videos that a clip begins with or is controlled by: which of their frames. Raises
    MediaError."""
    return [take(video, settings.frames, playback(settings), fit=_small).said for video in _videos(settings)]


def plan(settings: Settings) -> Plan:
    """The moves that a run with these settings makes, from the noise tables alone; no model is loaded."""
    video, image = noise_tables(settings)
    strength = None if settings.init_video is None else _strength(settings)
    solver, spacing = _stepping(settings)
    return plan_of(video, image, _steps(settings), settings.options, cfg_scale=_cfg(settings), solver=solver,
                   spacing=spacing, loop=settings.loop, strength=strength,
                   vae_scale=loading.vae_scale(_checkpoint(settings)))


def noises(settings: Settings) -> dict[str, Noise]:
    """What the video and the image model predict, and their noise: what their files say, or your settings.

    Single files have AnimateDiff's table and their own, which is Stable Diffusion's where they say nothing; a
    diffusers folder says its own. Raises `loading.LoadError`.
    """
    checkpoint = _checkpoint(settings)
    video = loading.video_noise(checkpoint, settings.motion_module, settings.prediction, settings.zero_snr)
    if settings.image_checkpoint:
        image = loading.noise("image_checkpoint", settings.image_checkpoint).override(
            settings.image_prediction, settings.image_zero_snr)
    else:
        image = loading.noise("checkpoint", checkpoint).override(settings.prediction, settings.zero_snr)
        if os.path.isdir(checkpoint) and settings.motion_module is None:  # its table is that of its motion
            image = replace(image, betas=SCALED_LINEAR)
    return {"video": video, "image": image}


def said(settings: Settings) -> list[str]:
    """A line for each model that is not what its kind is where files and settings say nothing, and who says so; what
    the file of the motion module leaves open, and what in the settings does not fit it."""
    found, lines = noises(settings), []
    module = loading.motion_found(settings.motion_module)
    if module and module.kind.distilled:
        lines.append(module.kind.distilled.advice(module.kind.name, _steps(settings), _cfg(settings)))
    if module and module.doubt:
        lines.append(f"motion module {shown(settings.motion_module)} {module.doubt}")
    if settings.controlnet:
        acting, moves = controlled(settings), [move for move in plan(settings).moves if move.evaluates]
        if not any(map(acting, moves)):
            lines.append("no ControlNet acts in any step; see control_strength, control_start, control_end and "
                         "control_acts_on")
    lines += [f"{name} model: {noise} (from {', '.join(noise.said)})" for name, noise in found.items()
              if noise.said and (noise.said != IN_FOLDERS or noise.prediction != "epsilon" or noise.zero_snr)]
    return [line for line in lines if line]


def noise_tables(settings: Settings) -> tuple[Schedule, Schedule]:
    """The tables of the video and of the image model, see `noises`."""
    taken = noises(settings)
    return taken["video"].table(), taken["image"].table()


def load(settings: Settings, device: torch.device, *, offload: bool = False, vae_slicing: bool = False,
         attention_slicing: bool = False) -> IVMixedPipeline:
    """The models of ``settings`` (`complete` ones) on ``device``.

    ``offload``: models stay on the CPU while they are not needed (diffusers' model offload). ``vae_slicing``: the VAE
    takes one frame at a time. ``attention_slicing``: attention is computed in parts. Raises `loading.LoadError`.
    """
    for line in said(settings):
        logging.getLogger(__name__).info("IV-mixed: %s", line)
    dtype = _DTYPES[settings.precision]
    video = loading.load_video(
        _checkpoint(settings), settings.motion_module, lora=settings.lora, vae=settings.vae,
        prediction=settings.prediction, zero_snr=settings.zero_snr, dtype=dtype)
    controlnets = {path: loading.load_controlnet(path, _controlled_models(settings)[0], dtype=dtype)
                   for path in dict.fromkeys(settings.controlnet)}
    image = None
    if settings.image_checkpoint:
        image = loading.load_image(
            settings.image_checkpoint, loras=settings.image_lora, prediction=settings.image_prediction,
            zero_snr=settings.image_zero_snr, dtype=dtype)
    elif settings.image_lora:
        image = loading.load_image(
            _checkpoint(settings), loras=[*settings.lora, *settings.image_lora], prediction=settings.prediction,
            zero_snr=settings.zero_snr, dtype=dtype)
    if image is not None:
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
    for network in controlnets.values():
        if attention_slicing:
            network.set_attention_slice("auto")
        if not offload:  # else it comes to the device for the sampling
            network.to(device)
    video_table, image_table = noise_tables(settings)
    return IVMixedPipeline(video, image, image_table, video_table, [controlnets[path] for path in settings.controlnet])


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
    checked before a model is loaded: OptionError, `loading.LoadError` and `MediaError` (of ``init_video``,
    ``mask_video`` and ``control_video``) say what is wrong in one line.
    """
    target = choose_device(device)
    settings = complete(settings, target)
    check(settings)
    pipe = pipe or load(settings, target, **memory)
    width, height = settings.size or pipe.size
    init, mask = (None if video is None else _frames_of(video, settings, (width, height))
                  for video in (settings.init_video, settings.mask_video))
    hints = {video: _frames_of(video, settings, (width, height)) for video in dict.fromkeys(settings.control_video)}
    controls = [Control(hints[video], **told) for _, video, told in _controls(settings)]
    clip = pipe(
        settings.prompt, settings.negative_prompt, frames=settings.frames or 0, width=width, height=height,
        steps=_steps(settings), cfg_scale=_cfg(settings), seed=settings.seed or 0, options=settings.options,
        solver=settings.solver, spacing=settings.spacing, motion=settings, loop=settings.loop,
        image_chunk=settings.image_chunk, fps=settings.fps,
        playback_fps=settings.playback_fps, init=init, strength=settings.strength or 0.0,
        mask=None if mask is None else np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in mask]),
        controls=controls, callback_on_step_end=callback_on_step_end, progress=progress,
    )
    made: dict[str, Any] = replace(settings, size=(width, height)).to_dict()
    return replace(clip, settings=made)


def _frames_of(video: str, settings: Settings, size: tuple[int, int]) -> Frames:
    """The frames of a video at the clip's rate, number and size."""
    taken = take(video, settings.frames, playback(settings), fit=lambda picture: crop_and_resize(picture, *size))
    logging.getLogger(__name__).info("IV-mixed: %s", taken.said)
    return np.stack([np.asarray(frame) for frame in taken.frames])


def _checkpoint(settings: Settings) -> str:
    if settings.checkpoint != BOX:
        return settings.checkpoint
    if not (box.MODEL / "model_index.json").is_file():
        raise OptionError("checkpoint", BOX, "a checkpoint of yours, or a git clone of the project, which has it",
                          "is not in this copy")
    return str(box.MODEL)
