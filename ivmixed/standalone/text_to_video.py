"""The parts of a text-to-video model by itself, as one diffusers pipeline: ModelScope-T2V, zeroscope, VideoCrafter2."""
from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet3DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer


class TextToVideoPipeline(DiffusionPipeline):
    """What `IVMixedPipeline` asks of a video pipeline: its parts, their memory switches, and folders of them.

    It has no call of its own. The parts are those of diffusers' deprecated ``TextToVideoSDPipeline``, so folders of
    that one load as this::

        video = TextToVideoPipeline.from_pretrained("modelscope/", torch_dtype=torch.float16)
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(self, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer,
                 unet: UNet3DConditionModel, scheduler: DDIMScheduler):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
