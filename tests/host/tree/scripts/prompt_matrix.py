"""Prompt matrix: all of them in one request, which has a list of prompts and of seeds."""
import math

from PIL import Image

from modules import scripts
from modules.processing import fix_seed, process_images


class Script(scripts.Script):
    def title(self):
        return "Prompt matrix"

    def run(self, p, different_seeds, prompt_type):
        fix_seed(p)
        name = "prompt" if prompt_type == "positive" else "negative_prompt"
        first, *more = getattr(p, name).split("|")
        prompts = [", ".join([first, *(part for n, part in enumerate(more) if number & 1 << n)])
                   for number in range(2 ** len(more))]
        p.n_iter = math.ceil(len(prompts) / p.batch_size)
        p.do_not_save_grid = True
        setattr(p, name, prompts)
        p.seed = [p.seed + (number if different_seeds else 0) for number in range(len(prompts))]
        result = process_images(p)
        width, height = result.images[0].size
        rows = 1 << (len(more) // 2)
        grid = Image.new("RGB", (width * math.ceil(len(result.images) / rows), height * rows))
        result.images.insert(0, grid)
        result.index_of_first_image = 1
        result.infotexts.insert(0, result.infotexts[0])
        return result
