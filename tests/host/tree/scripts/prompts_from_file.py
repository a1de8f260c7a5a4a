"""Prompts from file: a request for every line, a copy of the given one."""
from copy import copy

from modules import scripts
from modules.processing import Processed, process_images


class Script(scripts.Script):
    def title(self):
        return "Prompts from file or textbox"

    def run(self, p, text, sampler_names):
        images, infotexts, seeds = [], [], []
        for number, line in enumerate(text.splitlines()):
            job = copy(p)
            job.prompt = f"{line} {p.prompt}"
            if sampler_names:
                job.sampler_name = sampler_names[number]
            result = process_images(job)
            images += result.images
            infotexts += result.infotexts
            seeds += result.all_seeds
        return Processed(images, infotexts, seeds)
