"""One request: the model's parts are fresh for every sampling, then scripts change them."""
from dataclasses import dataclass, field
from typing import Any

import torch

from modules import extra_networks, processing_parts, rng, sd_models, sd_samplers, shared
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
    n_iter: int = 1
    do_not_save_grid: bool = False
    refiner_checkpoint: str | None = None
    refiner_checkpoint_info: Any = None
    hr_checkpoint_name: str | None = None
    hr_checkpoint_info: Any = None
    all_prompts: list = field(default_factory=list)
    seeds: list = field(default_factory=list)
    enable_hr: bool = False
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_second_pass_steps: int = 0
    hr_additional_modules: list | None = None
    """Forge main's and Neo's: VAE and text encoders of the hires pass, by name or path."""
    hr_cfg: float = 1.0
    """Forge main's and reForge's own for the hires pass."""
    is_hr_pass: bool = False
    sampler_noise_scheduler_override: Any = None
    extra_generation_params: dict = field(default_factory=dict)
    comments: dict = field(default_factory=dict)
    prompt: Any = None
    """The schedule of prompts of every row, or a function of the number of rows that makes it."""
    negative_prompt: Any = None
    extra_network_data: dict = field(default_factory=dict)
    hr_extra_network_data: dict = field(default_factory=dict)
    tiling: bool = False
    do_not_save_samples: bool = False
    width: int = 32
    height: int = 32
    styles: list = field(default_factory=list)
    outpath_samples: str = ""
    outpath_grids: str = ""
    all_seeds: list = field(default_factory=list)
    latents: Any = None
    """What was sampled, for the tests."""
    progress: Any = None
    """The step and the steps that the page was told at the end of sampling, for the tests."""
    sampler: Any = None
    rng: Any = None
    prompts: list = field(default_factory=list)
    negative_prompts: list = field(default_factory=list)
    c: Any = None
    uc: Any = None

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
        return rng.ImageRNG((4, 4, 4), [self.seed + row for row in range(rows)])

    def init(self, all_prompts, all_seeds):
        processing_parts.init(self)

    def setup_conds(self):
        """Forge main does not encode the negative prompt where the CFG scale of the pass is 1."""
        scale = self.hr_cfg if self.is_hr_pass else self.cfg_scale
        left_out = shared.host == "forge_main" and scale == 1
        self.c = self._encoded(self.prompts)
        self.uc = None if left_out else self._encoded(self.negative_prompts)

    @staticmethod
    def _encoded(prompts):
        clip = sd_models.model_data.get_sd_model().forge_objects.clip
        return [[(last, clip(tensor)) for last, tensor in schedule] for schedule in encoded(prompts)]

    def get_conds(self):
        return self.c, self.uc

    def sample(self):
        self.rng = self.generators(self.batch_size)
        x = self.rng.next()
        image_cond = x.new_zeros(len(x), 5, 1, 1)
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        self._before_sampling()
        if self.init_latent is not None:
            return self.sampler.sample_img2img(self, self.init_latent, x, self.c, self.uc,
                                               image_conditioning=image_cond)
        samples = self.sampler.sample(self, x, self.c, self.uc, image_conditioning=image_cond)
        if not self.enable_hr or shared.state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        shared.state.nextjob()
        self.rng = self.generators(self.batch_size)
        self.setup_conds()
        self._before_sampling()
        samples = self.sampler.sample_img2img(
            self, samples, self.rng.next(), self.c, self.uc, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=image_cond)
        self.is_hr_pass = False
        return samples

    def _before_sampling(self):
        self.sd_model.forge_objects = self.sd_model.forge_objects_after_applying_lora.shallow_copy()
        self.scripts.process_before_every_sampling(self)


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


def apply_circular_forge(model, tiling_enabled):
    model.tiling_enabled = tiling_enabled


def process_images(p):
    p.seed = get_fixed_seed(p.seed)
    p.scripts.before_process(p)
    if shared.host == "forge_main":
        p.sd_model = sd_models.forge_model_reload()
    if shared.state.job_count == -1:
        shared.state.job_count = 1
    if p.enable_hr:
        shared.total_tqdm.updateTotal(p.steps + (p.hr_second_pass_steps or p.steps))
        shared.state.job_count *= 2
    processing_parts.find_refiner(p)
    processing_parts.setup_prompts(p)
    p.scripts.process(p)
    p.init(p.all_prompts, p.all_seeds)
    if p.extra_network_data:
        extra_networks.activate(p, p.extra_network_data)
    p.sd_model.forge_objects = p.sd_model.forge_objects_after_applying_lora.shallow_copy()
    p.scripts.process_batch(p)
    p.prompts, p.negative_prompts, p.seeds = p.all_prompts, p.all_negative_prompts, p.all_seeds
    p.hr_prompts, p.hr_negative_prompts = p.prompts, p.negative_prompts
    p.setup_conds()
    unet = p.sd_model.forge_objects.unet
    modifiers = unet.model_options.get("alphas_cumprod_modifiers", [])
    if shared.host != "forge_previous" or not modifiers:  # the others note a wish for another table, and leave it
        samples = p.sample()
    else:
        before = p.sd_model.alphas_cumprod
        for modifier in modifiers:
            p.sd_model.alphas_cumprod = modifier(p.sd_model.alphas_cumprod)
        unet.model.model_sampling.set_sigmas(((1 - p.sd_model.alphas_cumprod) / p.sd_model.alphas_cumprod) ** 0.5)
        samples = p.sample()
        # not reached after an error
        p.sd_model.alphas_cumprod = before
        unet.model.model_sampling.set_sigmas(((1 - before) / before) ** 0.5)
    p.prompts = p.all_prompts
    return finished(p, samples, *pictures_of(p, samples))
