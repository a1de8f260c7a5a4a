"""The host's globals: settings, state, the loaded model."""
import io
from types import SimpleNamespace

import torch

from modules.shared_state import State
from modules.shared_total_tqdm import TotalTQDM

opts = SimpleNamespace(
    always_discard_next_to_last_sigma=False,
    batch_cond_uncond=True,
    enable_quantization=False,
    eta_ancestral=1.0,
    hide_samplers=[],
    img2img_fix_steps=False,
    live_preview_content="Prompt",
    live_previews_enable=True,
    multiple_tqdm=True,
    pad_cond_uncond=False,
    pad_cond_uncond_v0=False,
    s_min_uncond_all=False,
    sd_noise_schedule="Default",
    sgm_noise_multiplier=False,
    show_progress_every_n_steps=10,
    skip_early_cond=0.0,
    use_downcasted_alpha_bar=False,
)
cmd_opts = SimpleNamespace(disable_console_progressbars=False)
parallel_processing_allowed = True
device = torch.device("cpu")
progress_print_out = io.StringIO()
sd_model = None
state = State()
total_tqdm = TotalTQDM()
