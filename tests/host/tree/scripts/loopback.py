"""Loopback: one request again and again, on the picture that it gave before."""
from modules import scripts
from modules.processing import process_images


class Script(scripts.Script):
    def title(self):
        return "Loopback"

    def run(self, p, loops, _):
        for _ in range(loops):
            p.n_iter = p.batch_size = 1
            result = process_images(p)
            p.init_images = [result.images[0]]
            p.seed = result.all_seeds[0] + 1
        return result
