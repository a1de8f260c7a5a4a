"""The host's settings for the noise table, applied before every sampling."""
from modules import shared


def apply_alpha_schedule_override(sd_model, p=None):
    table = sd_model.alphas_cumprod_original
    if shared.opts.use_downcasted_alpha_bar:
        table = table.half()
    if shared.opts.sd_noise_schedule == "Zero Terminal SNR":
        table = _zero_terminal_snr(table)
    sd_model.alphas_cumprod = table


def _zero_terminal_snr(abar):
    root = abar.sqrt()
    table = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    table[-1] = 4.8973451890853435e-08
    return table
