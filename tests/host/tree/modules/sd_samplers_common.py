"""What all samplers of the host have in common."""
import inspect
from collections import namedtuple

from modules import shared
from modules.shared import opts, state


class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    def total_steps(self, steps):
        return steps * 2 if self.options.get("second_order") else steps


class InterruptedException(BaseException):
    pass


def setup_img2img_steps(p, steps=None):
    strength = min(p.denoising_strength, 0.999)
    if opts.img2img_fix_steps or steps is not None:
        wanted = steps or p.steps
        return (int(wanted / strength) if strength > 0 else 0), wanted - 1
    return p.steps, int(strength * p.steps)


def store_latent(decoded):
    state.current_latent = decoded
    every = opts.show_progress_every_n_steps
    due = opts.live_previews_enable and every > 0 and state.sampling_step % every == 0
    if due and not shared.parallel_processing_allowed:
        state.assign_current_image(decoded)


def apply_refiner(denoiser):
    """Goes on with the checkpoint that refines, where it is another entry of the list than the loaded one's."""
    info = denoiser.p.refiner_checkpoint_info
    if info is None or shared.sd_model.sd_checkpoint_info == info:
        return
    denoiser.p.extra_generation_params["Refiner"] = info.title
    denoiser.model_wrap = None


class Sampler:
    def __init__(self, funcname):
        self.funcname = self.func = funcname
        self.extra_params = []
        self.config = self.p = self.model_wrap_cfg = self.sampler_extra_args = None
        self.last_latent = self.stop_at = self.eta = self.s_min_uncond = None

    def callback_state(self, d):
        if self.stop_at is not None and d["i"] > self.stop_at:
            raise InterruptedException
        state.sampling_step = d["i"]
        shared.total_tqdm.update()

    def launch_sampling(self, steps, func):
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps = steps
        state.sampling_step = 0
        try:
            return func()
        except (RecursionError, InterruptedException):
            return self.last_latent

    def initialize(self, p):
        self.p = self.model_wrap_cfg.p = p
        self.model_wrap_cfg.mask, self.model_wrap_cfg.nmask = p.mask, p.nmask
        self.model_wrap_cfg.step = 0
        self.eta = opts.eta_ancestral if p.eta is None else p.eta
        self.s_min_uncond = p.s_min_uncond
        parameters = inspect.signature(self.func).parameters
        extra = {name: getattr(p, name) for name in self.extra_params if name in parameters and hasattr(p, name)}
        if "eta" in parameters:
            extra["eta"] = self.eta
        return extra

    def add_infotext(self, p):
        if self.model_wrap_cfg.padded_cond_uncond:
            p.extra_generation_params["Pad conds"] = True
