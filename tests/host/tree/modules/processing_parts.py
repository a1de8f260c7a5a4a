"""What the hosts' files for a request share: in the hosts it is in ``processing.py``."""
import random
from dataclasses import dataclass, field

from PIL import Image

from modules import infotext_utils, prompt_parser, scripts, shared


def get_fixed_seed(seed):
    return random.randrange(2**32) if seed == -1 else seed


def encoded(prompts):
    """The schedules of the rows."""
    return [prompt(len(prompts))[row] if callable(prompt) else [(10**6, prompt_parser.encode(prompt))]
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


def finished(p, samples):
    """What a request made; not reached after an error. The decoder shows three channels of a latent, enlarged."""
    p.latents, p.progress = samples, (shared.state.sampling_step, shared.state.sampling_steps)
    shared.state.nextjob()
    pictures = (samples[:, :3].float() / 6 + 0.5).clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    batch = scripts.PostprocessBatchListArgs(list(pictures))
    p.scripts.postprocess_batch_list(p, batch)
    p.all_seeds = [p.seed + row for row in range(len(samples))]
    made = [Image.fromarray((255 * picture.permute(1, 2, 0).numpy()).astype("uint8")) for picture in batch.images]
    text = p.prompt if isinstance(p.prompt, str) else "a prompt"
    params = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": p.seed,
              "Size": f"{p.width}x{p.height}", **p.extra_generation_params}
    result = Processed(made, [f"{text}\n{infotext_utils.line_of(params)}"] * len(made), p.all_seeds,
                       extra_generation_params=p.extra_generation_params)
    p.scripts.postprocess(p, result)
    return result
