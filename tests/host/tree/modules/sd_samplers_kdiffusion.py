"""The host's samplers that are functions of k-diffusion's signature."""
import inspect

import k_diffusion.external
import k_diffusion.sampling
import torch

from modules import sd_samplers_cfg_denoiser, sd_samplers_common, sd_schedulers, shared
from modules.shared import opts


class CFGDenoiserKDiffusion(sd_samplers_cfg_denoiser.CFGDenoiser):
    @property
    def inner_model(self):
        if self.model_wrap is None:
            external = k_diffusion.external
            kind = external.CompVisVDenoiser if shared.sd_model.parameterization == "v" else external.CompVisDenoiser
            self.model_wrap = kind(shared.sd_model, quantize=shared.opts.enable_quantization)
        return self.model_wrap


class KDiffusionSampler(sd_samplers_common.Sampler):
    def __init__(self, funcname, sd_model, options=None):
        super().__init__(funcname)
        self.extra_params = sampler_extra_params.get(funcname, [])
        self.options = options or {}
        self.func = funcname if callable(funcname) else getattr(k_diffusion.sampling, funcname)
        self.model_wrap_cfg = CFGDenoiserKDiffusion(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_sigmas(self, p, steps):
        discard = self.config.options.get("discard_next_to_last_sigma", opts.always_discard_next_to_last_sigma)
        steps += discard
        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        scheduler = sd_schedulers.schedulers_map.get(
            self.config.options.get("scheduler") if name == "Automatic" else name)
        if p.sampler_noise_scheduler_override:
            sigmas = p.sampler_noise_scheduler_override(steps)
        elif scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            p.extra_generation_params["Schedule type"] = scheduler.label
            table = self.model_wrap.sigmas
            more = {"inner_model": self.model_wrap} if scheduler.need_inner_model else {}
            sigmas = scheduler.function(
                n=steps, sigma_min=table[0].item(), sigma_max=table[-1].item(), device=torch.device("cpu"), **more)
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps)
        x = x * torch.sqrt(1 + sigmas[0] ** 2) if opts.sgm_noise_multiplier else x * sigmas[0]
        return self._run(p, x, x, sigmas, steps, conditioning, unconditional_conditioning, image_conditioning)

    def sample_img2img(self, p, x, noise, conditioning, unconditional_conditioning, steps=None,
                       image_conditioning=None):
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps)[steps - t_enc - 1:]
        start = x + noise * sigmas[0]
        self.model_wrap_cfg.init_latent = x
        return self._run(p, start, x, sigmas, t_enc + 1, conditioning, unconditional_conditioning, image_conditioning)

    def _run(self, p, x, last_latent, sigmas, steps, cond, uncond, image_cond):
        extra = self.initialize(p)
        parameters = inspect.signature(self.func).parameters
        if "n" in parameters:
            extra["n"] = steps
        if "sigmas" in parameters:
            extra["sigmas"] = sigmas
        self.last_latent = last_latent
        self.sampler_extra_args = {"cond": cond, "image_cond": image_cond, "uncond": uncond,
                                   "cond_scale": p.cfg_scale, "s_min_uncond": self.s_min_uncond}
        samples = self.launch_sampling(steps, lambda: self.func(
            self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, disable=False, callback=self.callback_state,
            **extra))
        self.add_infotext(p)
        return samples


# by name: a sampler that is a function of an extension gets none of them
sampler_extra_params = {"sample_euler": ["s_churn", "s_tmin", "s_tmax", "s_noise"]}

samplers_data_k_diffusion = [
    sd_samplers_common.SamplerData(
        label, lambda model, funcname=funcname: KDiffusionSampler(funcname, model), aliases, options)
    for label, funcname, aliases, options in (
        ("DPM++ 2M", "sample_euler", ["k_dpmpp_2m"], {"scheduler": "karras"}),  # a name in the list, not its solver
        ("Euler", "sample_euler", ["k_euler"], {}),
    )
]
