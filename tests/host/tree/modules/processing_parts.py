"""What the hosts' files for a request share: in the hosts it is in ``processing.py``."""
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from modules import images, infotext_utils, prompt_parser, scripts, sd_models, shared


def get_fixed_seed(seed):
    return random.randrange(2**32) if seed == -1 else seed


def fix_seed(p):
    p.seed = get_fixed_seed(p.seed)


def setup_prompts(p):
    """A prompt and a seed for every picture; a script may have given them."""
    if isinstance(p.prompt, list):
        p.all_prompts = p.prompt
    else:
        count = len(p.negative_prompt) if isinstance(p.negative_prompt, list) else p.batch_size * p.n_iter
        p.all_prompts = [p.prompt] * count
    many = isinstance(p.negative_prompt, list)
    p.all_negative_prompts = p.negative_prompt if many else [p.negative_prompt] * len(p.all_prompts)
    if len(p.all_prompts) != len(p.all_negative_prompts):
        raise RuntimeError("a different number of prompts and negative prompts")
    p.all_seeds = p.seed if isinstance(p.seed, list) else [p.seed + row for row in range(len(p.all_prompts))]


def find_refiner(p):
    if p.refiner_checkpoint in (None, "", "None", "none"):
        return
    p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
    if p.refiner_checkpoint_info is None:
        raise Exception(f"Could not find checkpoint with name {p.refiner_checkpoint}")


def init(p):
    """What a request does first of all: with its pictures, and with what it wants for a second pass."""
    if p.init_images is not None and len(p.init_images) > 1:
        if len(p.init_images) > p.batch_size:
            raise RuntimeError(f"bad number of images passed: {len(p.init_images)}; expecting {p.batch_size} or less")
        p.batch_size = len(p.init_images)
    if p.enable_hr and p.hr_checkpoint_name and p.hr_checkpoint_name != "Use same checkpoint":
        p.hr_checkpoint_info = sd_models.get_closet_checkpoint_match(p.hr_checkpoint_name)


def encode_pictures(p):
    """The pictures of img2img as latents, one for all rows or one for each; the inverse of what `pictures_of` shows."""
    if p.resize_mode != 3:
        p.init_images = [images.resize_image(p.resize_mode, picture, p.width, p.height) for picture in p.init_images]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in p.init_images])).float() / 255
    small = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2), 8)
    latents = torch.cat([6 * (small - 0.5), torch.zeros_like(small[:, :1])], 1)
    p.init_latent = latents.expand(p.batch_size, -1, -1, -1) if len(latents) == 1 else latents


def blended(p, samples):
    """With what the mask keeps of the pictures."""
    return samples if p.mask is None else samples * p.nmask + p.init_latent * p.mask


def encoded(prompts):
    """The schedules of the rows."""
    return [prompt(len(prompts))[row] if callable(prompt) else [(10**6, prompt_parser.encode_prompt(prompt))]
            for row, prompt in enumerate(prompts)]


@dataclass
class Processed:
    """What a request made: pictures, with the infotext of each."""

    images: list
    infotexts: list
    all_seeds: list
    comments: str = ""
    extra_generation_params: dict = field(default_factory=dict)
    index_of_first_image: int = 0

    @property
    def info(self):
        return self.infotexts[0]


def pictures_of(p, samples):
    """A batch's pictures and their infotexts. The decoder shows three channels of a latent, enlarged."""
    p.progress = shared.state.sampling_step, shared.state.sampling_steps
    shared.state.nextjob()
    pictures = (samples[:, :3].float() / 6 + 0.5).clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    batch = scripts.PostprocessBatchListArgs(list(pictures))
    p.scripts.postprocess_batch_list(p, batch)
    made = [Image.fromarray((255 * picture.permute(1, 2, 0).numpy()).astype("uint8")) for picture in batch.images]
    texts = []
    for prompt, seed in zip(p.prompts, p.seeds):
        params = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": seed,
                  "Size": f"{p.width}x{p.height}", **p.extra_generation_params}
        texts.append(f"{prompt if isinstance(prompt, str) else 'a prompt'}\n{infotext_utils.line_of(params)}")
    return made, texts


def finished(p, samples, pictures, texts):
    """What a request made; not reached after an error."""
    p.latents = samples
    result = Processed(pictures, texts, p.all_seeds, extra_generation_params=p.extra_generation_params)
    p.scripts.postprocess(p, result)
    return result
