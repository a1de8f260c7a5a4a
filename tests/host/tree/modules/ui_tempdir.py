"""Files that the page may show: those that it was told of."""
import os


def register_tmp_file(page, filename):
    page.temp_file_sets[0] = page.temp_file_sets[0] | {_path(page, filename)}


def _path(page, filename):
    """Gradio 4 has paths there, gradio 3 texts."""
    from gradio import utils
    return utils.abspath(filename) if hasattr(utils, "get_cache_folder") else os.path.abspath(filename)
