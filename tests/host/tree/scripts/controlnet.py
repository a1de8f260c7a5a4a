"""sd-webui-controlnet: control images beside the rows of the batch, given to the UNet with every call."""
from types import SimpleNamespace
from typing import NamedTuple

import torch

from modules import devices, script_callbacks, scripts


class Hint:
    """A batch of control images that knows where it lives, as tensors do on a machine with a GPU."""

    def __init__(self, images, device=devices.cpu):
        self.images, self.device = images, device

    @property
    def shape(self):
        return self.images.shape

    @property
    def ndim(self):
        return self.images.ndim

    def __getitem__(self, rows):
        return Hint(self.images[rows], self.device)

    def __setitem__(self, rows, hint):
        assert hint.device == self.device
        self.images[rows] = hint.images

    def to(self, device=None, **kwargs):
        return self if device == self.device else Hint(self.images, device)


class ImageEmbed(NamedTuple):
    """What IP-Adapter keeps of its image."""

    cond_emb: torch.Tensor
    uncond_emb: torch.Tensor


class ControlParams:
    def __init__(self, control_model_type, hint_cond=None, control_model=None, start=0.0, stop=1.0):
        self.control_model_type = control_model_type
        self.control_model = control_model
        self.used_hint_cond = self.used_hint_cond_latent = None
        self._hint_cond = hint_cond
        self.hr_hint_cond = None
        self.start_guidance_percent, self.stop_guidance_percent = start, stop
        self.guidance_stopped = False

    @property
    def hint_cond(self):
        return self._hint_cond

    @hint_cond.setter
    def hint_cond(self, value):
        self._hint_cond = value
        # made anew at the next call
        self.used_hint_cond = self.used_hint_cond_latent = None


class LLLiteModule(torch.nn.Module):
    """Embeds its image at the first call and keeps the embedding until another image is set."""

    def __init__(self):
        super().__init__()
        self.cond_image = self.cond_emb = None

    def set_cond_image(self, cond_image):
        self.cond_image = cond_image
        self.cond_emb = None

    def forward(self, x):
        if self.cond_emb is None:
            self.cond_emb = torch.tanh(self.cond_image)
        assert x.shape[0] % self.cond_emb.shape[0] == 0
        return self.cond_emb.repeat(x.shape[0] // self.cond_emb.shape[0], 1, 1, 1)


class PlugableControlLLLite(torch.nn.Module):
    def __init__(self, images):
        super().__init__()
        self.modules = {"one": LLLiteModule()}  # a dict in place of torch's method
        for module in self.modules.values():
            module.set_cond_image(images)


class ControlNetScript(scripts.Script):
    """Its unit is the list of controls of the request."""

    latest_network = None

    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ["the unit"]

    def process(self, p, controls):
        self.latest_network = None
        if not controls:
            return
        unet = p.sd_model.model.diffusion_model
        self.latest_network = SimpleNamespace(control_params=controls, model=unet)
        script_callbacks.on_cfg_denoiser(self._guidance_schedule)
        self._hook(unet, controls)

    def postprocess(self, p, processed, controls):
        if self.latest_network is None:
            return
        script_callbacks.callback_map["cfg_denoiser"].remove(self._guidance_schedule)
        for name in ("forward", "current_sampling_percent"):
            vars(p.sd_model.model.diffusion_model).pop(name, None)
        self.latest_network = None

    def _guidance_schedule(self, params):
        part = params.sampling_step / params.total_sampling_steps
        self.latest_network.model.current_sampling_percent = part
        for control in self.latest_network.control_params:
            control.guidance_stopped = not control.start_guidance_percent <= part <= control.stop_guidance_percent

    def _hook(self, unet, controls):
        original = unet.forward

        def forward(x, timesteps=None, context=None):
            for control in controls:
                if control.control_model_type == "LLLite":
                    part = unet.current_sampling_percent
                    acts = control.start_guidance_percent <= part <= control.stop_guidance_percent
                else:
                    acts = not control.guidance_stopped
                if acts:
                    x = x + _control(control, x)
            return original(x, timesteps=timesteps, context=context)

        unet.forward = forward


def _control(control, x):
    if control.control_model_type == "LLLite":
        return 0.1 * sum(module(x) for module in control.control_model.modules.values())
    if control.used_hint_cond is None:
        control.used_hint_cond = control.hint_cond
    hint = control.used_hint_cond
    assert hint.device == x.device, "Expected all tensors to be on the same device"
    images = hint.images
    if control.control_model is not None:
        images = control.control_model(images)  # SparseCtrl has motion modules of its own
    if control.control_model_type == "AttentionInjection":
        # reference-only (and colorfix, inpaint-only) keep the latents of their image, one for each row of that call
        if control.used_hint_cond_latent is None:
            control.used_hint_cond_latent = images.expand(len(x), -1, -1, -1)
        images = control.used_hint_cond_latent
        assert len(images) == len(x), "The size of tensor a must match the size of tensor b"
    assert len(images) in (1, len(x)), "The size of tensor a must match the size of tensor b"
    return 0.1 * images


class Schedule(list):
    """An encoded prompt that ControlNet has marked."""


def mark_prompt_context(conds, positive):
    conds[:] = [Schedule(schedule) for schedule in conds]
    for schedule in conds:
        schedule.positive = positive
