"""The host's globals: settings, state, the loaded model."""
import io
from types import SimpleNamespace

import torch

from modules.paths_internal import data_path
from modules.shared_state import State
from modules.shared_total_tqdm import TotalTQDM


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, onchange=None, section=None):
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.onchange, self.section = onchange, section
        self.restrict_api = False


class Options(SimpleNamespace):
    """The settings' values, as attributes."""

    def add_option(self, key, info):
        settings_page[key] = info
        if not hasattr(self, key):
            setattr(self, key, info.default)

    def set(self, key, value, is_api=False):
        """What the page's button does, and the API; whether the setting is another now."""
        info = settings_page[key]
        if getattr(self, key) == value or (is_api and info.restrict_api):
            return False
        if isinstance(info.component_args, dict) and info.component_args.get("visible", True) is False:
            return False
        setattr(self, key, value)
        if info.onchange:
            info.onchange()
        return True


settings_page = {}
opts = Options(
    data={},
    always_discard_next_to_last_sigma=False,
    batch_cond_uncond=True,
    enable_pnginfo=True,
    enable_quantization=False,
    eta_ancestral=1.0,
    hide_samplers=[],
    img2img_fix_steps=False,
    live_preview_content="Prompt",
    live_previews_enable=True,
    multiple_tqdm=True,
    outdir_grids="",
    outdir_samples="",
    outdir_img2img_grids="",
    outdir_img2img_samples=f"{data_path}/outputs",
    outdir_txt2img_grids="",
    outdir_txt2img_samples=f"{data_path}/outputs",
    pad_cond_uncond=False,
    pad_cond_uncond_v0=False,
    s_min_uncond_all=False,
    s_churn=0.0,
    s_noise=1.0,
    samples_save=True,
    sd_model_checkpoint=None,
    sd_noise_schedule="Default",
    sgm_noise_multiplier=False,
    show_progress_every_n_steps=10,
    skip_early_cond=0.0,
    use_downcasted_alpha_bar=False,
)
cmd_opts = SimpleNamespace(
    api_auth=None, disable_console_progressbars=False, freeze_settings=False, freeze_settings_in_sections=None,
    freeze_specific_settings=None)
hide_dirs = {"visible": True}
"""With ``--hide-ui-dir-config`` False."""
parallel_processing_allowed = True
device = torch.device("cpu")
progress_print_out = io.StringIO()
sd_model = None
demo = None
"""The page."""
state = State()
total_tqdm = TotalTQDM()
