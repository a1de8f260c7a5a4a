"""One request: hooks, sampling, hooks."""
from dataclasses import dataclass, field
from typing import Any

import torch

from modules import rng, sd_models, sd_samplers, shared


@dataclass
class StableDiffusionProcessing:
    sd_model: Any
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    steps: int = 4
    cfg_scale: float = 7.0
    seed: int = 1
    batch_size: int = 1
    scripts: Any = None
    script_args: tuple = ()
    is_api: bool = True
    eta: float | None = None
    s_min_uncond: float = 0.0
    denoising_strength: float = 0.6
    init_latent: torch.Tensor | None = None
    """The pictures of img2img; None: txt2img."""
    enable_hr: bool = False
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_second_pass_steps: int = 0
    is_hr_pass: bool = False
    sampler_noise_scheduler_override: Any = None
    extra_generation_params: dict = field(default_factory=dict)
    prompt: Any = None
    """The schedule of prompts of every row, or a function of the number of rows that makes it."""
    negative_prompt: Any = None
    sampler: Any = None
    rng: Any = None

    def noise(self, rows):
        """The noise that a clip of these rows begins with."""
        return self.generators(rows).next()

    def generators(self, rows):
        return rng.ImageRNG((4, 4, 4), [self.seed + row for row in range(rows)])

    def sample(self):
        cond, uncond = self.prompt(self.batch_size), self.negative_prompt(self.batch_size)
        self.rng = self.generators(self.batch_size)
        x = self.rng.next()
        image_cond = x.new_zeros(len(x), 5, 1, 1)
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if self.init_latent is not None:
            return self.sampler.sample_img2img(self, self.init_latent, x, cond, uncond, image_conditioning=image_cond)
        samples = self.sampler.sample(self, x, cond, uncond, image_conditioning=image_cond)
        if not self.enable_hr or shared.state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        shared.state.nextjob()
        self.rng = self.generators(self.batch_size)
        samples = self.sampler.sample_img2img(
            self, samples, self.rng.next(), cond, uncond, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=image_cond)
        self.is_hr_pass = False
        return samples


def process_images(p):
    p.scripts.before_process(p)
    if shared.state.job_count == -1:
        shared.state.job_count = 1
    if p.enable_hr:
        shared.total_tqdm.updateTotal(p.steps + (p.hr_second_pass_steps or p.steps))
        shared.state.job_count *= 2
    p.scripts.process(p)
    sd_models.apply_alpha_schedule_override(p.sd_model, p)
    samples = p.sample()
    p.scripts.postprocess(p, samples)  # not reached after an error
    return samples
