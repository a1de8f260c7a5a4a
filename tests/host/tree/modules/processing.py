"""One request: hooks, sampling, hooks."""
from dataclasses import dataclass, field
from typing import Any

import torch

from modules import processing_parts, rng, sd_models, sd_samplers, shared
from modules.processing_parts import Processed, encoded, finished, fix_seed, get_fixed_seed, pictures_of  # noqa: F401


@dataclass
class StableDiffusionProcessing:
    sd_model: Any = None
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    steps: int = 4
    cfg_scale: float = 7.0
    seed: int = 1
    batch_size: int = 1
    scripts: Any = None
    script_args: tuple = ()
    is_api: bool = False
    eta: float | None = None
    s_min_uncond: float = 0.0
    denoising_strength: float = 0.6
    init_latent: torch.Tensor | None = None
    """The pictures of img2img, encoded; None: txt2img."""
    init_images: list | None = None
    mask: Any = None
    nmask: Any = None
    enable_hr: bool = False
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_second_pass_steps: int = 0
    is_hr_pass: bool = False
    sampler_noise_scheduler_override: Any = None
    extra_generation_params: dict = field(default_factory=dict)
    comments: dict = field(default_factory=dict)
    prompt: Any = None
    """A text, one for every row, or a function of the number of rows that makes a schedule for each."""
    negative_prompt: Any = None
    n_iter: int = 1
    width: int = 32
    height: int = 32
    do_not_save_grid: bool = False
    do_not_save_samples: bool = False
    refiner_checkpoint: str | None = None
    refiner_checkpoint_info: Any = None
    hr_checkpoint_name: str | None = None
    hr_checkpoint_info: Any = None
    s_churn: float | None = None
    s_noise: float | None = None
    iteration: int = 0
    all_prompts: list = field(default_factory=list)
    seeds: list = field(default_factory=list)
    outpath_samples: str = ""
    all_seeds: list = field(default_factory=list)
    prompts: list = field(default_factory=list)
    styles: list = field(default_factory=list)
    outpath_grids: str = ""
    negative_prompts: list = field(default_factory=list)
    sampler: Any = None
    rng: Any = None
    c: Any = None
    uc: Any = None
    latents: Any = None
    """What was sampled, for the tests."""
    progress: Any = None
    """The step and the steps that the page was told at the end of sampling, for the tests."""

    def __post_init__(self):
        self.sd_model = self.sd_model or shared.sd_model
        self.outpath_samples = self.outpath_samples or shared.opts.outdir_txt2img_samples

    def close(self):
        self.sampler = None

    def comment(self, text):
        self.comments[text] = 1

    def noise(self, rows):
        """The noise that a clip of these rows begins with."""
        return self.generators(rows).next()

    def generators(self, rows):
        seeds = self.seeds if len(self.seeds) == rows else [self.seed + row for row in range(rows)]
        return rng.ImageRNG((4, 4, 4), seeds)

    def init(self, all_prompts, all_seeds):
        processing_parts.init(self)

    def setup_conds(self):
        model = self.sd_model.cond_stage_model
        self.c, self.uc = ([[(last, model(tensor)) for last, tensor in schedule] for schedule in encoded(prompts)]
                           for prompts in (self.prompts, self.negative_prompts))

    def get_conds(self):
        return self.c, self.uc

    def sample(self):
        cond, uncond = self.get_conds()
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


@dataclass
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """A request of the tab img2img."""

    resize_mode: int = 0
    image_mask: Any = None

    def init(self, all_prompts, all_seeds):
        super().init(all_prompts, all_seeds)
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        processing_parts.encode_pictures(self)

    def sample(self):
        return processing_parts.blended(self, super().sample())


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """A request of the tab txt2img."""


def process_images(p):
    fix_seed(p)
    p.scripts.before_process(p)
    if shared.state.job_count == -1:
        shared.state.job_count = p.n_iter
    if p.enable_hr:
        shared.total_tqdm.updateTotal(p.steps + (p.hr_second_pass_steps or p.steps))
        shared.state.job_count *= 2
    processing_parts.find_refiner(p)
    processing_parts.setup_prompts(p)
    p.scripts.process(p)
    p.init(p.all_prompts, p.all_seeds)
    samples, pictures, texts = [], [], []
    for number in range(p.n_iter):
        p.iteration = number
        if shared.state.interrupted:
            break
        rows = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
        p.prompts, p.negative_prompts, p.seeds = p.all_prompts[rows], p.all_negative_prompts[rows], p.all_seeds[rows]
        p.hr_prompts, p.hr_negative_prompts = p.prompts, p.negative_prompts
        p.scripts.process_batch(p)
        p.setup_conds()
        sd_models.apply_alpha_schedule_override(p.sd_model, p)
        samples.append(p.sample())
        p.prompts = p.all_prompts[rows]
        made = pictures_of(p, samples[-1])
        pictures += made[0]
        texts += made[1]
    return finished(p, torch.cat(samples) if samples else None, pictures, texts)
