"""One guided evaluation: which guidance reaches the network differs by host."""
import torch
from modules_forge.forge_sampler import forge_sample

from modules import prompt_parser, script_callbacks, sd_samplers_common, shared
from modules.script_callbacks import CFGDenoiserParams, cfg_denoiser_callback
from modules.shared import opts

if shared.host != "reforge":  # which looks into modules.shared each time
    from modules.shared import state


class CFGDenoiser(torch.nn.Module):
    def __init__(self, sampler):
        super().__init__()
        self.model_wrap = None
        self.sampler = sampler
        self.step = 0
        self.steps = self.total_steps = self.p = None
        self.padded_cond_uncond = False
        self.mask = self.nmask = self.init_latent = None

    @property
    def inner_model(self):
        raise NotImplementedError

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond, **kwargs):
        now = shared.state if shared.host == "reforge" else state
        if now.interrupted or now.skipped:
            raise sd_samplers_common.InterruptedException
        sd_samplers_common.apply_refiner(self)
        params = CFGDenoiserParams(
            x, image_cond, sigma, now.sampling_step, now.sampling_steps,
            prompt_parser.reconstruct_multicond_batch(cond, self.step)[1],
            None if uncond is None else prompt_parser.reconstruct_cond_batch(uncond, self.step), self)
        cfg_denoiser_callback(params)
        cond_scale = _GUIDANCE[shared.host](self, cond_scale, sigma, s_min_uncond)
        denoised = forge_sample(self, params, cond_scale)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        self.sampler.last_latent = denoised
        sd_samplers_common.store_latent(denoised)
        denoised = script_callbacks.cfg_after_cfg_callback(denoised, now.sampling_step, now.sampling_steps).x
        self.step += 1
        return denoised


def _previous(self, cond_scale, sigma, s_min_uncond):
    return cond_scale


def _main(self, cond_scale, sigma, s_min_uncond):
    if self.p.is_hr_pass:
        cond_scale = self.p.hr_cfg
    early = shared.opts.skip_early_cond
    if early > 0 and self.step / self.total_steps <= early:
        return 1.0
    if (self.step % 2 or shared.opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond:
        return 1.0
    return cond_scale


def _reforge(self, cond_scale, sigma, s_min_uncond):
    if self.p.is_hr_pass:
        cond_scale = self.p.hr_cfg
    least, early = shared.opts.s_min_uncond, shared.opts.skip_early_cond
    if least > 0 and sigma[0] < least and (self.step % 2 == 0 or shared.opts.s_min_uncond_all):
        return 1.0
    if self.step < early or (early != 0 and self.step / self.total_steps <= early):
        return 1.0
    return cond_scale


def _classic(self, cond_scale, sigma, s_min_uncond):
    if 0.0 <= self.step / self.total_steps <= opts.skip_early_cond:  # by default in step 0
        return 1.0
    return 1.0 if s_min_uncond > 0.0 and sigma[0] < s_min_uncond else cond_scale


_GUIDANCE = {"forge_previous": _previous, "forge_main": _main, "reforge": _reforge, "classic": _classic}
