"""A clip from a prompt: IV-Mixed sampling on diffusers pipelines."""
from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline, UNetMotionModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..clips.media import write_clip
from ..controls import MOST_FRAMES, MotionControls, check_reuse
from ..kinds import Pair
from ..motion import Travel, sample_again
from ..motion.noise import order_of
from ..neighbours import check_attention
from ..options import ConflictError, OptionError, Options
from ..plan import Move, Plan, image_latent, make_plan
from ..released import RELEASED, released_plan
from ..sampling import sample_iv_mixed
from ..schedule import Schedule
from . import prompts, videocrafter
from .control import ActingControl, Control, on_device
from .control import check as check_controlnet
from .denoiser import Denoiser, image_view, noise_table
from .motion import ActingMotion, check_start
from .motion import check as check_motion
from .settings import PREDICTIONS, STRENGTH

StepCallback = Callable[["IVMixedPipeline", int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class Clip:
    """A finished clip."""

    frames: NDArray[np.uint8]
    """(frames, height, width, 3), RGB."""
    latents: Tensor
    """(frames, channels, height, width), float32, before the VAE."""
    plan: Plan
    seconds: float
    """Time of the sampling and of the decoding."""
    fps: float = 8.0
    passes: int = 1
    """How many times the plan was run (FreeInit)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever shall travel with the file; `ivmixed.standalone.generate` puts all its settings here."""

    @property
    def evaluations(self) -> int:
        """Guided network calls of all passes."""
        return self.passes * self.plan.evaluations

    def save(self, path: str | Path) -> list[Path]:
        """Writes the clip in the format of the name's extension (see `media.write_clip`); returns the files."""
        return write_clip(path, self.frames, self.fps, self.settings)


class IVMixedPipeline:
    """The sampler on a diffusers video pipeline, with an image model::

        import torch
        from diffusers import AnimateDiffPipeline, MotionAdapter
        from ivmixed import Options
        from ivmixed.standalone import IVMixedPipeline

        adapter = MotionAdapter.from_pretrained("guoyww/animatediff-motion-adapter-v1-5-3", torch_dtype=torch.float16)
        video = AnimateDiffPipeline.from_pretrained("your/sd-1.5", motion_adapter=adapter, torch_dtype=torch.float16)
        video.scheduler = video.scheduler.from_config(video.scheduler.config, beta_schedule="linear")
        pipe = IVMixedPipeline(video.to("cuda"))
        clip = pipe("a red kite over a beach, waves rolling in", options=Options(gamma_go=(4, 2)), seed=1)
        clip.save("kite.mp4")

    ``video``: an AnimateDiffPipeline or a `TextToVideoPipeline` (ModelScope-T2V, zeroscope, VideoCrafter2), on the
    device and in the precision it shall run in; its LoRAs, its memory switches (``enable_vae_slicing()``,
    ``enable_model_cpu_offload()``) and its scheduler's noise table and prediction are used. ``image``: a
    StableDiffusionPipeline of the same latent space; without it the image model is AnimateDiff's UNet without its
    motion modules, which takes no memory. ``image_table``: the noise table that the image model was trained on, where
    it is neither that of ``image`` nor, without one, Stable Diffusion's scaled-linear table. ``video_table``: that of
    the video model, where it is not its scheduler's. ``controlnets``: for SD 1.5, in the precision of the UNets; what
    they are told, each clip says. Raises ValueError where a pipeline other than AnimateDiff's comes without an image
    pipeline, one predicts neither noise nor v, or a ControlNet does not fit.
    """

    def __init__(self, video: DiffusionPipeline, image: DiffusionPipeline | None = None,
                 image_table: Schedule | None = None, video_table: Schedule | None = None,
                 controlnets: Sequence[ControlNetModel] = ()):
        self.video, self.image, self.controlnets = video, image, tuple(controlnets)
        for pipeline in filter(None, (video, image)):
            if _prediction(pipeline) not in PREDICTIONS:
                raise ValueError(f"{type(pipeline).__name__} predicts {_prediction(pipeline)}; known are "
                                 + ", ".join(PREDICTIONS))
        if image is None and not isinstance(video.unet, UNetMotionModel):
            raise ValueError(f"{type(video).__name__} has no image model inside: give a StableDiffusionPipeline too")
        for network in self.controlnets:
            fitting = video if image is None or self.is_animatediff else image
            check_controlnet(network.config, fitting.unet.config, fitting.vae_scale_factor)
        self.video_table = video_table or noise_table(video)
        self.image_table = image_table or (noise_table(image) if image is not None else Schedule.scaled_linear())

    @property
    def takes_fps(self) -> bool:
        """Whether the video model is told the frames a second of the clip."""
        return isinstance(self.video.unet, videocrafter.VideoCrafterUNet)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels that the video model was made for."""
        sides = self.video.unet.config.sample_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return width * self.video.vae_scale_factor, height * self.video.vae_scale_factor

    def plan(
        self,
        steps: int = 25,
        options: Options | None = None,
        *,
        cfg_scale: float = 7.5,
        solver: str | None = None,
        spacing: str | None = None,
        loop: str = "",
        strength: float | None = None,
    ) -> Plan:
        """The moves of a run, without running it; see `plan_of`."""
        return plan_of(self.video_table, self.image_table, steps, options or Options(), cfg_scale=cfg_scale,
                       solver=solver, spacing=spacing, loop=loop, strength=strength,
                       vae_scale=(self.image or self.video).vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        negative_prompt: str = "",
        *,
        frames: int = 16,
        width: int | None = None,
        height: int | None = None,
        steps: int = 25,
        cfg_scale: float = 7.5,
        seed: int = 0,
        options: Options | None = None,
        solver: str | None = None,
        spacing: str | None = None,
        motion: MotionControls | None = None,
        loop: str = "",
        plan: Plan | None = None,
        image_chunk: int | None = None,
        fps: float | None = None,
        playback_fps: float | None = None,
        latents: Tensor | None = None,
        init: NDArray[np.uint8] | None = None,
        strength: float = STRENGTH,
        mask: NDArray[np.uint8] | None = None,
        controls: Sequence[Control] = (),
        callback_on_step_end: StepCallback | None = None,
        progress: bool = True,
    ) -> Clip:
        """Makes one clip.

        ``width``, ``height``: pixels, multiples of 8 (or of what the VAE asks); the model's own size where not given.
        ``prompt`` and its like may have weights, as in "(red:1.3)", and any length, see `ivmixed.standalone.prompts`;
        with AnimateDiff ``prompt`` may travel, see `ivmixed.motion.travel`.
        ``motion``: motion strength, context windows for clips that are longer than the module's context, the noise
        that the clip begins with, and FreeInit; the image model then takes as many frames at once as the context has.
        ``seed``: the same on every device, the noise is drawn on the CPU. ``options``: the sampler's; ``solver``: how
        the ordinary step is taken, one of `ivmixed.plan.SOLVERS` ("euler", or that of the loop, where not given);
        ``spacing``: where the timesteps lie, see `plan_of`;
        ``loop``: one of the authors' released loops instead of the sampler's own moves; ``plan``: your own moves
        instead of both. ``image_chunk``: frames that the image model takes at once (all where not given);
        where its attention sees other frames that has to be all of them.
        ``fps``: frames a second that VideoCrafter2 is told (28 where not given). ``playback_fps``: at which the clip is
        shown; where it is not given ``fps``, unless that is told to the model, and else 8.
        ``latents``: the noise to begin with, (frames, channels, height, width) in latent pixels, variance 1, instead of
        a seed's, and in its own order. ``init``: frames to begin with, (frames, height, width, 3), RGB, beside noise;
        ``strength``: how much of their noise levels is run through, from 0, which gives them through the VAE,
        to 1. ``mask``: (frames, height, width), 255 where ``init`` is to be made anew and 0 where it stays, through the
        VAE. ``controls``: what each of the ``controlnets`` is told, in their order.

        ``callback_on_step_end(pipe, step, timestep, {"latents": latents})`` comes after every outer step, as in
        diffusers, with the variance-preserving latents (frames, channels, height, width); what it returns under
        "latents" is gone on with.

        Raises OptionError before any evaluation for a value that is not allowed, NonFiniteError when the latent becomes
        NaN or infinite.
        """
        own_width, own_height = self.size
        width, height = width or own_width, height or own_height
        motion = motion or MotionControls()
        self.check(frames, width, height, motion)
        if init is not None:
            check_start(motion)
        for name, given, shape in (("init", init, (frames, height, width, 3)), ("mask", mask, (frames, height, width))):
            if given is not None and given.shape != shape:
                raise OptionError(name, given.shape, f"an array of shape {shape}")
        self._check_controls(controls, (frames, height, width, 3))
        options = options or Options()
        if mask is not None and (init is None or options.image_size is not None):
            _refuse_mask(options)
        travel = check_prompts(prompt, negative_prompt, options, frames, self.is_animatediff)
        if self.is_animatediff:
            check_reuse(options, frames, motion.context)
        plan = plan or self.plan(steps, options, cfg_scale=cfg_scale, solver=solver, spacing=spacing, loop=loop,
                                 strength=None if init is None else strength)
        if self.is_animatediff and frames > motion.context:
            image_chunk = image_chunk or motion.context
        check_attention(plan, frames, image_chunk or frames)
        begun = time.perf_counter()
        unet = self.video.unet
        device, scale = self.video._execution_device, self.video.vae_scale_factor
        if latents is None:
            latents = torch.randn(frames, unet.config.in_channels, height // scale, width // scale,
                                  generator=torch.Generator().manual_seed(seed))
            latents = latents[order_of(motion, frames, seed)]
        acting = ActingMotion(motion, frames) if self.is_animatediff else None
        start = None if init is None else self.encode(init).to(device)
        if start is not None and not plan.moves:
            try:
                pixels = self.decode(start)
            finally:
                self.video.maybe_free_model_hooks()
            return Clip(pixels.cpu().numpy(), start.cpu(), plan, time.perf_counter() - begun, self._playback(
                fps, playback_fps))
        video, image = self._denoisers(prompt, negative_prompt, options, travel, acting, device, image_chunk, controls)
        table = self.video_table
        if loop:  # the released loops give both models the same timestep, and know no input scale
            table = video.schedule = image.schedule = self.video_table.unscaled
        if self.takes_fps:
            video.told["fps"] = fps or videocrafter.FPS

        def on_move(move: Move) -> None:
            (image if move.model == "image" else video).expect(move, plan)

        def on_step_end(move: Move, x: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return x
            shrink = table.input_norm(move.sigma_to)
            given = {"latents": x / shrink}
            kept = callback_on_step_end(self, move.step, table.sigma_to_timestep(move.sigma), given) or given
            return kept.get("latents", given["latents"]) * shrink

        last = plan.moves[-1].sigma_to
        sigmas = torch.tensor([m.sigma_from for m in plan.moves if m.kind == "ordinary"] + [last], dtype=torch.float64)
        latents = latents.to(device, torch.float32)
        if start is not None and mask is not None:
            video.kept = image.kept = start, self._kept(mask).to(device)
        generator = torch.Generator().manual_seed(seed + 1)

        def noise(*levels: float) -> Tensor:
            drawn = torch.randn(latents.shape, generator=generator, pin_memory=device.type == "cuda")
            return drawn.to(device, non_blocking=True)

        def sample(begin: Tensor) -> Tensor:
            first = float(sigmas[0])
            x = begin * table.input_norm(first) if start is None else start + begin * first
            x = sample_iv_mixed(
                video, x, sigmas, {"cond_scale": cfg_scale},
                image_model=image, plan=plan, on_move=on_move, on_step_end=on_step_end, disable=not progress,
                noise_sampler=noise,
            )
            if plan.smoothing and video.kept is not None:  # what other frames have there was averaged in
                x = torch.lerp(x, *video.kept)
            return x / table.input_norm(last)

        try:
            with (nullcontext() if acting is None else acting.acting_in(self.video.unet),
                  on_device(self.controlnets if controls else (), device)):
                x = sample_again(sample, latents, motion.free_init, abar=table.abars[-1],
                                 fresh=lambda: noise()[order_of(motion, frames, seed)],
                                 filter=motion.free_init_filter)
            pixels = self.decode(x)
        finally:
            for pipeline in filter(None, (self.video, self.image)):
                pipeline.maybe_free_model_hooks()
        return Clip(pixels.cpu().numpy(), x.cpu(), plan, time.perf_counter() - begun, self._playback(fps, playback_fps),
                    motion.free_init)

    def _playback(self, fps: float | None, playback_fps: float | None) -> float:
        return playback_fps or (None if self.takes_fps else fps) or Clip.fps

    @property
    def is_animatediff(self) -> bool:
        """Whether the video model has AnimateDiff's motion modules."""
        return isinstance(self.video.unet, UNetMotionModel)

    def check(self, frames: int, width: int, height: int, motion: MotionControls | None = None) -> None:
        """Raises OptionError where the video model cannot make a clip of this many frames or this size (pixels), or not
        with this ``motion``."""
        longest = self.video.unet.config.motion_max_seq_length or math.inf if self.is_animatediff else None
        if self.takes_fps:
            videocrafter.check_frames(frames)
        if not 1 <= frames <= MOST_FRAMES:
            raise OptionError("frames", frames, f"a whole number from 1 to {MOST_FRAMES}")
        check_motion(motion or MotionControls(), frames, longest)
        multiple = self.video.vae_scale_factor
        for name, side in (("width", width), ("height", height)):
            if side < multiple or side % multiple:
                raise OptionError(name, side, f"a multiple of {multiple} pixels")

    def _check_controls(self, controls: Sequence[Control], shape: tuple[int, ...]) -> None:
        """``shape``: of their hints. Raises OptionError, ConflictError."""
        if len(controls) not in (0, len(self.controlnets)):
            raise OptionError("controls", len(controls), f"{len(self.controlnets)} of them, one for each ControlNet")
        for control in controls:
            if control.hints.shape != shape:
                raise OptionError("hints", control.hints.shape, f"an array of shape {shape}")
            check_acts_on("acts_on", control.acts_on, self.is_animatediff)

    def _denoisers(self, prompt: str, negative_prompt: str, options: Options, travel: Travel | None,
                   motion: ActingMotion | None, device: torch.device, chunk: int | None,
                   controls: Sequence[Control]) -> tuple[Denoiser, Denoiser]:
        """``travel``: how the ``prompt`` changes along the clip, where it does."""
        def encode(pipeline: DiffusionPipeline, text: str, negative: str,
                   travel: Travel | None) -> tuple[Tensor, Tensor]:
            *conds, uncond = prompts.encode(pipeline, [*(travel.prompts if travel else [text]), negative], device)
            if travel is None or motion is None:
                return uncond, conds[0]
            cond = travel.blend(torch.cat(conds), motion.frames, motion.controls.closes(motion.frames))
            return uncond.expand(motion.frames, -1, -1), cond

        acting = [ActingControl(*pair) for pair in zip(self.controlnets, controls)]
        video = Denoiser(self.video.unet, self.video_table, _prediction(self.video),
                         *encode(self.video, prompt, negative_prompt, travel),
                         travels=travel is not None, motion=motion, controls=acting)
        if options.image_prompt:
            travel = None
        encoded = encode(self.image or self.video, options.image_prompt or prompt,
                         options.image_negative_prompt or negative_prompt, travel)
        travels = travel is not None
        if self.image is not None:
            return video, Denoiser(self.image.unet, self.image_table, _prediction(self.image), *encoded, chunk,
                                   travels=travels, controls=acting)
        hook = getattr(self.video.unet, "_hf_hook", None)
        if hook is not None:  # offloaded layers come to the device when the video model is called, but not for the view
            hook.pre_forward(self.video.unet)
        return video, Denoiser(image_view(self.video.unet), self.image_table, _prediction(self.video), *encoded,
                               chunk, travels=travels, controls=acting)

    @torch.no_grad()
    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """Frames (frames, height, width, 3), uint8 RGB, as latents (frames, channels, height, width), float32, on the
        VAE's device: the mean of what it finds. A few frames at a time."""
        vae = self.video.vae
        device = self.video._execution_device
        parts = []
        for start in range(0, len(frames), 4):
            pixels = torch.from_numpy(np.ascontiguousarray(frames[start:start + 4])).to(device).permute(0, 3, 1, 2)
            parts.append(vae.encode((pixels / 127.5 - 1).to(vae.dtype)).latent_dist.mode().float())
        latents: Tensor = torch.cat(parts) * vae.config.scaling_factor
        return latents

    def _kept(self, mask: NDArray[np.uint8]) -> Tensor:
        """Where latents stay as they are (1), of a mask that is 255 where they do not; (frames, 1, height, width).

        As the hosts make it: at the latents' size, then rounded.
        """
        scale = self.video.vae_scale_factor
        sides = mask.shape[2] // scale, mask.shape[1] // scale
        small = [np.asarray(Image.fromarray(frame).resize(sides)) for frame in mask]
        return 1 - torch.from_numpy(np.stack(small)).float().div(255).round().unsqueeze(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Finished latents (frames, channels, height, width) as pixels (frames, height, width, 3), uint8 RGB.

        A few frames at a time.
        """
        vae = self.video.vae
        scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
        parts = [((vae.decode(part).sample.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                 for part in scaled.split(4)]
        return torch.cat(parts).permute(0, 2, 3, 1).contiguous()


def _refuse_mask(options: Options) -> None:
    if options.image_size is not None:
        raise ConflictError("image_size", options.image_size, "mask", because="the mask has the clip's size",
                            remedy="leave it empty")
    raise ConflictError("mask", "given", "no init", because="it says where that is made anew", remedy="give init too")


def check_acts_on(name: str, acts_on: str, is_animatediff: bool) -> None:
    """Raises ConflictError where ControlNets would act on a video model that they do not fit."""
    if acts_on != "image" and not is_animatediff:
        raise ConflictError(name, acts_on, "this video model", because="ControlNets of SD 1.5 do not fit it",
                            remedy="take image")


def check_prompts(prompt: str, negative_prompt: str, options: Options, frames: int, may_travel: bool) -> Travel | None:
    """How the prompt of a clip of ``frames`` frames travels, where it does.

    ``may_travel``: the video model is AnimateDiff. Raises OptionError for a prompt that asks for what is not here, see
    `prompts.check`, TravelError for one that is no proper prompt travel.
    """
    travel = Travel.parse(prompt, frames) if may_travel else None
    for text in travel.prompts if travel else [prompt]:
        prompts.check("prompt", text)
        if travel and (match := re.search(r",\s*(\d+\s*:\s.*)", text)):
            raise OptionError("prompt", match[1], "prompt travel with a line for each frame", "stands behind another")
    for name, text in (("negative_prompt", negative_prompt), ("image_prompt", options.image_prompt),
                       ("image_negative_prompt", options.image_negative_prompt)):
        prompts.check(name, text)
    return travel


def _prediction(pipeline: DiffusionPipeline) -> str:
    return str(pipeline.scheduler.config.get("prediction_type", "epsilon"))


_KNOWN_TO_LOOPS = (
    "gamma_go", "gamma_back", "gamma_image_go", "gamma_image_back", "z_percent", "interval", "rho", "image_size",
    "image_resize", "image_prompt", "image_negative_prompt")


def plan_of(
    video_table: Schedule,
    image_table: Schedule,
    steps: int,
    options: Options,
    *,
    cfg_scale: float = 7.5,
    solver: str | None = None,
    spacing: str | None = None,
    loop: str = "",
    strength: float | None = None,
    vae_scale: int = 8,
) -> Plan:
    """The moves of a run from the noise tables of the two models alone.

    The outer steps begin at the video model's last timestep and end at its first, evenly spaced, and then at noise 0:
    the WebUI's schedule "Automatic"; with the ``spacing`` "trailing", which is that of the solver lcm where not given,
    they end one step before the first timestep, as distilled models were trained. With a ``loop`` the moves are those
    of the authors' released code, in which both models share the video model's table. ``vae_scale``: pixels a latent
    pixel. ``strength``: of a clip that begins with frames: the last of the steps, as many as the WebUIs take in img2img
    (``setup_img2img_steps`` in their ``modules/sd_samplers_common.py``: the share of the steps, and one), none for 0.

    Raises OptionError for an unknown loop, ConflictError where a released loop cannot do what an option asks.
    """
    if loop and strength is not None:
        raise ConflictError("loop", loop, "init_video", because="a released loop begins with noise alone",
                            remedy="leave one of the two out")
    if strength == 0:
        return Plan(options.form, 0, ())
    if not loop:
        last = len(video_table) - 1
        spacing = spacing or ("trailing" if solver == "lcm" else "linspace")
        parts = steps if spacing == "trailing" else max(steps - 1, 1)
        levels = [video_table.timestep_to_sigma(last * (1 - k / parts)) for k in range(steps)]
        if strength is not None:
            levels = levels[-(int(min(strength, 0.999) * steps) + 1):]
        return make_plan(options, [*levels, 0.0], video_table, image_table, solver=solver or "euler",
                         vae_scale=vae_scale)
    video_table = video_table.unscaled
    if loop not in RELEASED:
        raise OptionError("loop", loop, "one of " + ", ".join(RELEASED) + ", or nothing for the sampler's own moves")
    if spacing is not None:
        raise ConflictError("spacing", spacing, "loop", loop, because="a released loop has its own timesteps",
                            remedy="leave one of the two out")
    for name, value in options.changed().items():
        if name not in _KNOWN_TO_LOOPS:
            raise ConflictError(name, value, "loop", loop, because="a released loop has its own moves",
                                remedy=f"leave it or the loop out; with a loop there are {', '.join(_KNOWN_TO_LOOPS)}")
    gammas = {model: _ramp_of(options, model, loop) for model in ("image", "video")}
    zz = round(100 / options.z_percent) if options.z_percent else 1000
    if options.z_percent and abs(100 / zz - options.z_percent) > 0.1:
        raise ConflictError("z_percent", options.z_percent, "loop", loop,
                            because="a released loop replaces one step in n", remedy="take 100, 50, 33.3, 25, ...")
    first, end = (round(percent * steps / 100) for percent in options.interval)
    return released_plan(
        loop, steps, video_table, cfg_scale=cfg_scale, gamma_image=gammas["image"], gamma_video=gammas["video"],
        rho=options.rho, interval=(first, end - 1), zz=zz, solver=solver,
        image_size=image_latent(options, vae_scale), image_resize=options.image_resize,
    )


def _ramp_of(options: Options, model: str, loop: str) -> Pair:
    """The gamma of a model in a released loop. Raises ConflictError where that cannot have it."""
    go, back = (options.curve(model, direction) for direction in ("go", "back"))
    if go != back:
        raise ConflictError(
            "gamma_back", back, "loop", loop, because="a released loop has equal gammas for go and back",
            remedy="give both the same, or leave the loop out")
    if isinstance(go, float):
        return go, go
    if isinstance(go[0], tuple):
        raise ConflictError("gamma_go", go, "loop", loop, because="a released loop has no keyframes",
                            remedy='take a number or a ramp, as in "6 to 2"')
    return go
