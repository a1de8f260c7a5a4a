"""The parts of a text-to-video model by itself, as one diffusers pipeline: ModelScope-T2V, zeroscope, VideoCrafter2."""
from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet3DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


class TextToVideoPipeline(DiffusionPipeline):
    """What `IVMixedPipeline` asks of a video pipeline: words to embeddings, memory switches, and files.

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

    def encode_prompt(self, prompt: str, device: torch.device, num_images_per_prompt: int = 1,
                      do_classifier_free_guidance: bool = True, negative_prompt: str | None = None,
                      ) -> tuple[Tensor, Tensor]:
        """The embeddings (1, tokens, width) of a prompt and of a negative prompt, in the text encoder's precision.

        By the arguments of diffusers' pipelines, of which ``num_images_per_prompt`` and
        ``do_classifier_free_guidance`` change nothing.
        """
        tokens = self.tokenizer([prompt, negative_prompt or ""], padding="max_length", truncation=True,
                                max_length=self.tokenizer.model_max_length, return_tensors="pt").to(device)
        mask = tokens.attention_mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
        cond, uncond = self.text_encoder(tokens.input_ids, attention_mask=mask)[0].split(1)
        return cond, uncond
