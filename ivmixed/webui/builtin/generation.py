"""Built-in motion: a request that asks for it is sampled with a motion module of ours in the UNet. For every host.

Such a request has a ``p.sample`` of its own: within it the module acts, on the noise table that it was trained on, and
afterwards the host is as it was, whatever happened. How it gets into a host's UNet is in `a1111` and `forge`. Any of
the host's samplers works with it, and IV-mixed takes it as its video model.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules import paths, sd_samplers, shared

from ... import motion
from ...motion import MotionModule, MotionOptions, Travel, evaluate_in_windows, sample_again, uniform_windows
from ...motion.noise import order_of
from ...motion.options import MOTION_OPTIONS
from ...motion.windows import on_device
from ...options import ConflictError, OptionError
from ...patch import replaced
from ...untrusted import shown
from .. import hosts, log, request, selectable
from ..errors import RefusedError, refusing
from ..extensions import animatediff
from ..motion import ClipMotion
from ..page import settings
from . import control, start

ENDINGS = {".safetensors", ".ckpt", ".pth", ".pt"}
MOST_ENTRIES = 50_000
"""Files and folders that are looked at for motion modules, and for LoRAs."""
MOST_DEPTH = 16
"""Folders inside each other."""
STILLS = ("IV-mixed motion: this WebUI's UNet never called the motion module, so all frames are stills; switch off "
          "what replaces the UNet (TensorRT, say).")


def folders() -> list[Path]:
    """Where motion modules are looked for: our setting's, AnimateDiff's and the hosts' folders that exist."""
    chosen = shared.opts.data.get("animatediff_model_path")
    models = Path(paths.models_path)
    found = [Path(folder) for folder in (settings.folder(), chosen) if folder]
    found += [models / "AnimateDiff", models / "animatediff"]
    found += sorted(Path(paths.extensions_dir).glob("*animatediff*/model"))
    return [folder for folder in dict.fromkeys(found) if os.path.isdir(folder)]


def files(*more: Path) -> dict[str, Path]:
    """The model files in these folders and ``more`` by name; of two with one name the first."""
    found: dict[str, Path] = {}
    for path in _walk((*folders(), *more)):
        if path.suffix.lower() in ENDINGS:
            if path.name.isprintable():
                found.setdefault(path.name, path)
            else:  # half a surrogate pair, say, for a byte that is no UTF-8: the page could not be sent with it
                _tell_once(f"{shown(repr(str(path)))} is left out: rename it, in letters that can be shown")
    return found


def _walk(folders: Iterable[Path]) -> Iterator[Path]:
    """The files in folders and in those inside, each folder once, also where links lead back; in their order, and no
    more than `MOST_ENTRIES`."""
    left, seen = MOST_ENTRIES, set()
    waiting = [(os.fspath(folder), 0) for folder in reversed(tuple(folders))]
    while waiting:
        path, depth = waiting.pop()
        if depth and not os.path.isdir(path):
            yield Path(path)
            continue
        place = os.path.realpath(path)
        if place in seen or depth > MOST_DEPTH:
            continue
        seen.add(place)
        try:
            with os.scandir(path) as entries:
                inside = [entry.path for entry in islice(entries, left) if entry.is_dir() or entry.is_file()]
        except OSError:  # not ours to read, or gone meanwhile
            continue
        left -= len(inside)
        if not left:
            _tell_once(f"{path}: more than {MOST_ENTRIES} files and folders; the others are not looked at for models")
        waiting += [(name, depth + 1) for name in sorted(inside, reverse=True)]


@cache
def _tell_once(problem: str) -> None:
    log.warning(problem)


_kept: dict[tuple[Any, ...], MotionModule] = {}
"""The module of the latest clip, by what it was loaded from."""


def _load(
    path: Path, loras: tuple[tuple[Path, float], ...], dtype: torch.dtype, stamps: tuple[float, ...], kind: str,
) -> MotionModule:
    """The module in memory; ``stamps`` are the files' times, so that a changed file is read again."""
    wanted = path, loras, dtype, stamps, kind
    if wanted not in _kept:
        _kept.clear()
        log.info(f"loading {path.name}")
        _kept[wanted] = motion.load(path, loras=loras, dtype=dtype, kind=kind)
    return _kept[wanted]


class BuiltinClip:
    """A clip with built-in motion, as a request asks for it; ``p`` is the host's request, which has it too.

    Raises OptionError, MotionError, TravelError where it cannot be made.
    """

    def __init__(self, p: Any, options: MotionOptions):
        self.p, self.options = p, options
        self.path, self.loras = _chosen(options)
        _check(p, options)
        self.texts: list[Any] = p.prompt if isinstance(p.prompt, list) else [p.prompt]
        """The prompts as written: of all clips, or of each."""
        self.travels = [Travel.parse(text, options.frames) if isinstance(text, str) else None for text in self.texts]
        """Of each of them."""
        self.step = 0
        """The sampling step: it decides where the context windows lie."""
        self.progress = 0.0
        """How far the sampling is: 0 at the first step, 1 at the last."""
        self.motion: motion.Motion | None = None
        """The motion in the UNet, while sampling."""
        self.checkpoint_sigmas: Tensor | None = None
        """The noise levels of the checkpoint's own table, as the host has it, while another is in its place."""
        self.last_abar = 0.0
        """Of the motion module's noise table, its last entry."""
        self.saved = False
        """The user saves pictures."""
        self.files: list[Path] = []
        """What was written of it."""
        self.left_out = False
        """Motion does not act."""
        self.problem = ""
        """What is wrong with the host's latest call."""

    @property
    def frames(self) -> int:
        return self.options.frames

    @property
    def context(self) -> int:
        """Frames that are evaluated at a time."""
        return min(self.options.context, self.options.frames)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The factor on what motion adds to each frame in this step."""
        return self.options.strengths(self.progress, self.frames)

    @property
    def number(self) -> int:
        """Which of ``texts`` is that of the clip that is made now."""
        return getattr(self.p, "iteration", 0) % len(self.texts)

    @property
    def travel(self) -> Travel | None:
        """How the prompt of this clip changes along it."""
        return self.travels[self.number]

    @contextmanager
    def module(self, dtype: torch.dtype, device: torch.device) -> Iterator[MotionModule]:
        """Within the block the module is on ``device``; afterwards in memory for the next clip."""
        stamps = tuple(path.stat().st_mtime for path in (self.path, *(path for path, _ in self.loras)))
        module = _load(self.path, self.loras, dtype, stamps, self.options.kind)
        if module.doubt:
            log.warning(f"motion module {module.name} {module.doubt}.")
            self.p.extra_generation_params[MOTION_OPTIONS["kind"].label] = module.kind.name
        if module.kind.distilled and (said := module.kind.distilled.advice(
                module.kind.name, self.p.steps, self.p.cfg_scale)):
            log.warning(f"{said}.")
            self.p.comment(said)
        self.last_abar = float(module.kind.alphas_cumprod()[-1])
        try:
            yield module.to(device)
        finally:
            try:
                module.to("cpu")
            except BaseException as error:  # it is in pieces now, and read again for the next clip; this one is made
                _kept.clear()
                log.warning(f"{self.path.name} could not be kept in memory: {type(error).__name__} {shown(str(error))}")
                if not isinstance(error, Exception):
                    raise

    def in_windows(self, x: Tensor, call: Callable[[Tensor | slice], Tensor]) -> Tensor:
        """What the UNet gives for all rows of ``x``, (sets x frames, ...); ``call`` asks it for some of them."""
        everything = slice(0, x.shape[0])
        strengths = self.strengths
        if self.left_out or not any(strengths):
            size = settings.chunk(self.context)  # of each set: a host short of memory asks for cond and uncond apart
            if self.frames <= size or x.shape[0] % self.frames:
                return call(everything)
            parts = [range(self.frames)[start:start + size] for start in range(0, self.frames, size)]
            return evaluate_in_windows(lambda rows, length: call(rows), x, parts, self.frames, "last")
        if self.problem or x.shape[0] % self.frames:
            raise RefusedError(
                f"IV-mixed motion: {self.problem or f'{x.shape[0]} rows are no clips of {self.frames} frames'}.")
        motion = self.motion
        assert motion is not None
        windows = uniform_windows(self.step, **self.options.windows(self.frames))
        factors = None if all(strength == 1 for strength in strengths) \
            else on_device(strengths, x.device, torch.float32)
        motion.attention_scale = self.options.attention_scale

        def evaluate(rows: Tensor | slice, length: int) -> Tensor:
            motion.frames = length
            motion.strength = factors if factors is None or isinstance(rows, slice) else factors[rows[:length]]
            return call(rows)

        try:
            if len(windows) == 1:
                return evaluate(everything, self.frames)
            return evaluate_in_windows(evaluate, x, windows, self.frames, self.options.fuse,
                                       self.options.shared_frames)
        finally:
            motion.frames = None

    def rows(self) -> dict[str, Any]:
        """What the host is to sample: fields of the request, with an entry for every frame where clips differ.

        A script that gives a prompt for each of its pictures (Prompt matrix) gets a clip for each.
        """
        p, frames = self.p, self.frames
        given: dict[str, list[Any]] = {name: value for name in ("prompt", "negative_prompt", "seed", "subseed")
                                       if isinstance(value := getattr(p, name, None), list)}
        count = max(map(len, given.values()), default=p.n_iter)
        fields: dict[str, list[Any]] = {name: [text for text in given[name] for _ in range(frames)]
                  for name in ("prompt", "negative_prompt") if name in given}
        for name in ("seed", "subseed"):
            step = int(name == "subseed" or not getattr(p, "subseed_strength", 0))  # as the host numbers its pictures
            if name in given:
                fields[name] = [first + step * frame for first in given[name] for frame in range(frames)]
        if any(self.travels):
            rows = [_along(text, travel, frames) for text, travel in zip(self.texts, self.travels)]
            fields["prompt"] = [row for number in range(count) for row in rows[number % len(rows)]]
        return {"batch_size": frames, "n_iter": count, **fields}

    def tell_prompt(self) -> None:
        """The infotext has the prompt as the user wrote it, not that of each frame."""
        if self.travel is not None:
            self.p.prompts = [self.texts[self.number]] * len(self.p.prompts)

    def blended(self, encoded: Any) -> Any:
        """The encoded prompts of a step, (frames, ...), with those between the given ones blended."""
        travel = self.travel
        if travel is None:
            return encoded
        if isinstance(encoded, dict):  # SDXL's, of a kind of its own that has a shape
            blended = copy(encoded)
            blended.update((key, self.blended(value)) for key, value in encoded.items())
            return blended
        given = encoded.index_select(0, on_device(travel.frames, encoded.device))
        return travel.blend(given, self.frames, self.options.closes(self.frames))


def _chosen(options: MotionOptions) -> tuple[Path, tuple[tuple[Path, float], ...]]:
    """The files of the module and its LoRAs. Raises OptionError."""
    modules = files()
    if options.model not in modules:
        home = Path(paths.models_path, "AnimateDiff")
        raise OptionError("model", options.model, ", ".join(modules) or f"none is there, put one into {home}",
                          "is not in the folders of motion modules")
    lora_dir = getattr(shared.cmd_opts, "lora_dir", None)
    there = files(Path(lora_dir)) if lora_dir and options.loras else modules
    named = {**{path.stem: path for path in there.values()}, **there}
    loras = []
    for name, weight in options.loras:
        if name not in named:
            raise OptionError("loras", name, "the names of files in the folders of motion modules and of LoRAs",
                              "is not there")
        loras.append((named[name], weight))
    return modules[options.model], tuple(loras)


def _along(text: str, travel: Travel | None, frames: int) -> list[str]:
    """The prompt of every frame; between two given ones that of the first, as they are blended later."""
    if travel is None:
        return [text] * frames
    return [travel.prompts[max(0, sum(given <= frame for given in travel.frames) - 1)] for frame in range(frames)]


def _check(p: Any, options: MotionOptions) -> None:
    """Raises OptionError for what a request cannot have with built-in motion."""
    if animatediff.asked(p) is not None:  # also where its own module does not fit: the host would only log that
        raise ConflictError("model", options.model, "AnimateDiff", because="that puts motion into the UNet already",
                            remedy="switch AnimateDiff off, or IV-mixed motion")
    pictures = getattr(p, "init_images", None)
    if pictures is not None and options.free_init > 1:
        raise ConflictError("free_init", options.free_init, "img2img", because="its clips begin with pictures, and not "
                            "with noise alone", remedy="take 1")
    if pictures is not None and len(pictures) not in (1, options.frames):
        if not pictures:
            raise OptionError("init_images", [], f"one picture, or {options.frames}, one for each frame")
        raise ConflictError("frames", options.frames, f"{len(pictures)} init_images", because="each frame takes one",
                            remedy=f"take {len(pictures)} frames, or give one picture")


class BuiltinMotion(ClipMotion):
    """The motion of a clip while it is sampled."""

    def __init__(self, clip: BuiltinClip):
        self._clip = clip
        self.context = clip.context

    def checkpoint_sigmas(self) -> Tensor:
        assert self._clip.checkpoint_sigmas is not None
        return self._clip.checkpoint_sigmas

    def blended(self, cond: Any) -> Any:
        return self._clip.blended(cond)

    def left_out(self) -> AbstractContextManager[None]:
        return replaced(self._clip, "left_out", True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        yield
        assert self._clip.motion is not None
        if not self._clip.motion.acted and any(self._clip.strengths):
            raise RefusedError(STILLS)


def prepare(p: Any, make: Callable[[], MotionOptions | None]) -> None:
    """Called before the host begins with a request. ``make`` reads its options, None where motion is off.

    The host only logs what a hook raises: what is wrong is said where it stops the generation.
    """
    kept = request.of(p)
    kept.begin()
    try:
        with refusing():
            options = make()
            if options is None:
                return
            selectable.check(p)
            start.prepare(p, options)
            clip = BuiltinClip(p, options)
            control.prepare(p, options)
            kept.clip = clip
    except Exception as error:
        kept.refuse(error)  # or a still would come of it
        if isinstance(error, RefusedError):
            return
        raise
    clip.saved = not p.do_not_save_samples
    kept.change(do_not_save_grid=True, do_not_save_samples=True,  # written as a clip instead, see `output`
                sample=_with_motion(clip, p.sample), **clip.rows())
    for option in MOTION_OPTIONS.values():
        p.extra_generation_params.pop(option.label, None)  # a script's requests share it
    p.extra_generation_params.update(options.to_infotext())


def _with_motion(clip: BuiltinClip, sample: Callable[..., Any]) -> Callable[..., Any]:
    """The request's ``sample`` with motion in the UNet."""
    def with_motion(*args: Any, **kwargs: Any) -> Any:
        try:
            if (check_controls := request.of(clip.p).check_controls) is not None:
                check_controls()
            with refusing(), hosts.find().attached(clip) as clip.motion, _noised(clip):
                clip.motion.frames = clip.context  # more than it sees at a time are refused before the first evaluation
                clip.motion.frames = None
                samples = sample(*args, **kwargs)
                acted = clip.motion.acted
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(f"IV-mixed motion: out of memory with {clip.context} frames of {clip.p.width}x"
                               f"{clip.p.height} at a time; lower the size or the context ({error})") from None
        finally:
            clip.motion = None
        asked = request.of(clip.p).asks_video  # IV-mixed may leave all to the image model
        if not acted and asked and not clip.options.stills and not (shared.state.interrupted or shared.state.skipped):
            raise RefusedError(STILLS)
        return samples
    return with_motion


@contextmanager
def _noised(clip: BuiltinClip) -> Iterator[None]:
    """Within the block the request's samplers begin with the noise that the clip's options ask for, and sample it again
    where they do.

    Read in all hosts: ``processing.py`` makes every sampler by ``sd_samplers.create_sampler``, and hands it the noise.
    """
    options, create = clip.options, sd_samplers.create_sampler

    def created(*args: Any, **kwargs: Any) -> Any:
        sampler = create(*args, **kwargs)
        sample, sample_img2img = sampler.sample, sampler.sample_img2img

        def ordered(noise: Tensor) -> Tensor:
            return noise[order_of(options, clip.frames, int(clip.p.seeds[0]))]

        def from_noise(p: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            shared.state.job_count += options.free_init - 1  # the host's progress takes jobs for equally long
            each: list[request.Sampled] = []

            def once(noise: Tensor) -> Tensor:
                samples: Tensor = sample(p, noise, *args, **kwargs)
                if (taken := request.of(p).sampled) is not None:
                    each.append(taken)
                return samples

            def again() -> Tensor:
                shared.state.nextjob()
                return ordered(p.rng.next())
            made = sample_again(
                once, ordered(x), options.free_init, fresh=again, abar=clip.last_abar, filter=options.free_init_filter,
                stopped=lambda: shared.state.interrupted or shared.state.skipped)
            if each:
                done, _, seconds = map(sum, zip(*each))
                request.of(p).sampled = request.Sampled(done, options.free_init * each[0].planned, seconds)
            return made

        def from_latent(p: Any, x: Tensor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return sample_img2img(p, x, ordered(noise), *args, **kwargs)  # type: ignore[no-any-return]
        sampler.sample, sampler.sample_img2img = from_noise, from_latent
        return sampler

    if options.noise == "random" and options.free_init == 1:
        yield
        return
    with replaced(sd_samplers, "create_sampler", created):
        yield


def on_cfg_denoiser(params: Any) -> None:
    """The host's callback at the start of every evaluation: which step it is, and the prompts of the frames."""
    p = getattr(params.denoiser, "p", None)
    clip = None if p is None else request.of(p).clip
    if clip is None or clip.motion is None:
        return
    clip.step, clip.problem = params.denoiser.step, ""
    clip.progress = min(clip.step / max(params.denoiser.total_steps - 1, 1), 1.0)
    cond = params.text_cond
    if len(cond["crossattn"] if isinstance(cond, dict) else cond) != clip.frames:
        clip.problem = "AND in a prompt makes more rows than frames; write one prompt"
    else:
        params.text_cond = clip.blended(cond)
