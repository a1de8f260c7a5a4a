"""AnimateDiff's context windows around the network, and prompt travel, set up in step 0."""
import torch
from scripts.animatediff_mm import mm_animatediff


def halving(step):
    """The step's bits mirrored, as a fraction: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    return int(f"{step:064b}"[::-1], 2) / 2**64


def uniform(step, video_length, size, overlap):
    """The windows of a step, which begin elsewhere in each."""
    if video_length <= size:
        yield list(range(size))
        return
    shift = round(video_length * halving(step))
    for start in range(shift, video_length + shift - overlap, size - overlap):
        yield [frame % video_length for frame in range(start, start + size)]


def animatediff_on_cfg_denoiser(params):
    ad_params = mm_animatediff.ad_params
    if ad_params is None or not ad_params.enable:
        return
    ad_params.step = params.denoiser.step
    if params.denoiser.step == 0:
        ad_params.text_cond = ad_params.multi_cond(params.text_cond)
    params.text_cond = ad_params.text_cond


def mm_sd_forward(apply_model, info):
    ad_params = mm_animatediff.ad_params
    frames, total = ad_params.video_length, len(info["input"])
    out = torch.zeros_like(info["input"])
    for window in uniform(ad_params.step, frames, ad_params.batch_size, ad_params.overlap):
        rows = window + [frame + frames for frame in window] if total == 2 * frames else window
        c = {key: value[rows] if isinstance(value, torch.Tensor) else value for key, value in info["c"].items()}
        out[rows] = apply_model(info["input"][rows], info["timestep"][rows], **c)
    return out
