"""One guided evaluation: cond and uncond through the network, callbacks of extensions before and after."""
import torch

from modules import prompt_parser, script_callbacks, sd_samplers_common, shared
from modules.script_callbacks import CFGDenoiserParams, cfg_denoiser_callback
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

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        sd_samplers_common.apply_refiner(self)
        rows = len(cond)
        params = CFGDenoiserParams(
            torch.cat([x, x]), torch.cat([image_cond, image_cond]), torch.cat([sigma, sigma]),
            state.sampling_step, state.sampling_steps, prompt_parser.reconstruct_multicond_batch(cond, self.step)[1],
            prompt_parser.reconstruct_cond_batch(uncond, self.step), self)
        cfg_denoiser_callback(params)
        skip_uncond = self._skips_uncond(sigma, s_min_uncond)
        if skip_uncond:
            params.x, params.sigma = params.x[:rows], params.sigma[:rows]
        self._pad(params)

        out = self._evaluate(params, rows, skip_uncond)
        if skip_uncond:
            out = torch.cat([out, out[:rows]])
            cond_scale = 1.0
        script_callbacks.cfg_denoised_callback(out, state.sampling_step, state.sampling_steps, self.inner_model)
        denoised = out[rows:] + (out[:rows] - out[rows:]) * cond_scale
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask

        self.sampler.last_latent = out[:rows]
        shows_prompt = shared.opts.live_preview_content == "Prompt"
        sd_samplers_common.store_latent(self.sampler.last_latent if shows_prompt else denoised)
        denoised = script_callbacks.cfg_after_cfg_callback(denoised, state.sampling_step, state.sampling_steps).x
        self.step += 1
        return denoised

    def _skips_uncond(self, sigma, s_min_uncond):
        """The two settings that leave the negative prompt out, noted in the infotext."""
        noted = self.p.extra_generation_params
        if shared.opts.skip_early_cond != 0 and self.step / self.total_steps <= shared.opts.skip_early_cond:
            noted["Skip Early CFG"] = shared.opts.skip_early_cond
            return True
        if (self.step % 2 or shared.opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond:
            noted["NGMS"] = s_min_uncond
            return True
        return False

    def _pad(self, params):
        """Where the setting says so, the shorter of the two prompts is lengthened by empty ones."""
        self.padded_cond_uncond = False
        missing = params.text_cond.shape[1] - params.text_uncond.shape[1]
        if not missing or not shared.opts.pad_cond_uncond:
            return
        empty = shared.sd_model.cond_stage_model_empty_prompt
        shorter = "text_uncond" if missing > 0 else "text_cond"
        tensor = getattr(params, shorter)
        padding = empty.repeat(tensor.shape[0], abs(missing) // empty.shape[1], 1)
        setattr(params, shorter, torch.cat([tensor, padding], dim=1))
        self.padded_cond_uncond = True

    def _evaluate(self, params, rows, skip_uncond):
        """The network on all rows: in one call, in calls of ``rows`` rows, or one for each length of prompt."""
        text, uncond = params.text_cond, params.text_uncond
        if skip_uncond:
            parts = [(0, text)]
        elif text.shape[1] != uncond.shape[1]:
            parts = [(0, text), (rows, uncond)]
        elif shared.opts.batch_cond_uncond:
            parts = [(0, torch.cat([text, uncond]))]
        else:
            parts = [(0, text), (rows, uncond)]
        out = torch.zeros_like(params.x)
        for start, tensor in parts:
            end = start + tensor.shape[0]
            # with uncond left out, the image conditioning keeps its rows
            image_cond = params.image_cond if skip_uncond else params.image_cond[start:end]
            cond = {"c_crossattn": [tensor], "c_concat": [image_cond]}
            out[start:end] = self.inner_model(params.x[start:end], params.sigma[start:end], cond=cond)
        return out
