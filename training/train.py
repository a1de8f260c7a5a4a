"""Trains the bundled model: VAE, then the image model, then motion modules on the frozen image model.

    python -m training.train --work DIR            all stages; goes on where it was stopped
    python -m training.train --work DIR --export ivmixed/standalone/box/model

It is made as Stable Diffusion 1.5 and AnimateDiff are (arXiv 2112.10752, 2307.04725): an image UNet with its text
encoder learns crisp captioned stills with scaled-linear noise, first their content and then their detail; then the
UNet is frozen, and motion modules learn degraded clips with linear noise. training/README.md has the figures of the
run that made the shipped model.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ivmixed.schedule import Schedule
from ivmixed.standalone.box import FRAMES
from ivmixed.standalone.box.scenes import CAPTIONS

from .data import poor_clips, stills

SEED = 1
STEPS = {"vae": 3000, "image": 6500, "detail": 3500, "motion": 11000}
BATCH = {"vae": 32, "image": 32, "detail": 32, "motion": 4}
RATE = {"vae": 2e-3, "image": 1e-3, "detail": 1e-3, "motion": 1e-3}
WEIGHT = {"image": 50, "detail": 2, "motion": 20}  # the most that high noise counts, see `_noise`
PICTURES = 8000, 500  # crisp stills, and degraded clips, of the VAE
STILLS, CLIPS = 40000, 5000
TURNING = 2.0  # how many times as often the motion stage sees a clip that turns: the hardest to learn
SAVE_EVERY = 250


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with a token for each word of the world; other words fall into pieces.

    The trainer breaks ties by number, so the letters get theirs beforehand: without, two runs may differ.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    letters += [letter + "</w>" for letter in letters]
    pairs = Tokenizer(BPE(end_of_word_suffix="</w>"))
    pairs.pre_tokenizer = Whitespace()
    pairs.train_from_iterator(CAPTIONS, BpeTrainer(
        end_of_word_suffix="</w>", special_tokens=letters, show_progress=False))
    merges = [tuple(pair) for pair in json.loads(pairs.to_str())["model"]["merges"]]
    tokens = [*letters, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: k for k, token in enumerate(tokens)}, merges, model_max_length=16)


def make_vae() -> AutoencoderKL:
    """64x64 pixels become 16x16 latent pixels of 4 channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=8,
        mid_block_add_attention=False, sample_size=64,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of 64 channels."""
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, projection_dim=64, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))


def make_unet() -> UNet2DConditionModel:
    """The image model: three levels, cross-attention in the lower two."""
    return UNet2DConditionModel(
        sample_size=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(32, 64, 96),
        layers_per_block=1, cross_attention_dim=64, attention_head_dim=4, norm_num_groups=16,
    )


def make_adapter() -> MotionAdapter:
    """Motion modules for every level of `make_unet`, as AnimateDiff v2 has them."""
    return MotionAdapter(
        block_out_channels=(32, 64, 96), motion_layers_per_block=1, motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4, motion_norm_num_groups=16, motion_max_seq_length=32, use_motion_mid_block=True,
    )


class Run:
    """A training run in a folder: data that is made once, stages that go on where they were stopped, a log."""

    def __init__(self, work: Path, device: torch.device):
        self.work, self.device = work, device
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED)
        self.tokenizer = make_tokenizer()
        self.vae = make_vae().to(device)
        self.text_encoder = make_text_encoder(self.tokenizer).to(device)
        self.unet = make_unet().to(device)

    def data(self, name: str, make: Callable[[], object]) -> object:
        """``make()``, kept in a file."""
        path = self.work / f"{name}.data.pt"
        if not path.exists():
            torch.save(make(), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        return torch.load(path)

    def fit(self, stage: str, parts: Iterable[torch.nn.Module], loss_of: Callable[[torch.Generator], Tensor]) -> None:
        """Trains the parameters of ``parts`` that want a gradient, and leaves their running average in them.

        Every step draws from a generator seeded by the step, so a run that was stopped goes on as if it had not been.
        """
        weights = [p for part in parts for p in part.parameters() if p.requires_grad]
        steps, path = STEPS[stage], self.work / f"{stage}.state.pt"
        optimizer = torch.optim.AdamW(weights, lr=RATE[stage], betas=(0.9, 0.99), weight_decay=0.01)
        average = [p.detach().clone() for p in weights]
        first, spent = 0, 0.0
        if path.exists():
            state = torch.load(path, map_location=self.device)
            for p, saved in zip(weights, state["weights"]):
                p.data.copy_(saved)
            average, first, spent = state["average"], state["step"], state["seconds"]
            optimizer.load_state_dict(state["optimizer"])
        begun, recent = time.perf_counter() - spent, []
        for step in range(first, steps):
            loss = loss_of(torch.Generator().manual_seed(SEED * 1_000_003 + step))
            optimizer.param_groups[0]["lr"] = RATE[stage] * _pace(step / steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            keep = min(0.999, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in weights], 1 - keep)
            recent.append(loss.item())
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                spent = time.perf_counter() - begun
                torch.save({"weights": weights, "average": average, "step": step + 1, "seconds": spent,
                            "optimizer": optimizer.state_dict()},
                           path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                self.log(stage=stage, step=step + 1, loss=sum(recent) / len(recent), seconds=round(spent, 1))
                recent.clear()
        for p, smooth in zip(weights, average):
            p.data.copy_(smooth)

    def log(self, **entry: object) -> None:
        """One line of JSON in log.jsonl and on the screen."""
        line = json.dumps(entry)
        print(line, flush=True)
        with (self.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def train_vae(self) -> None:
        """Crops of crisp and of degraded frames; L1 on pixels and on their differences, and a little KL."""
        def make() -> Tensor:
            generator = torch.Generator().manual_seed(SEED)
            crisp, _ = stills(PICTURES[0], generator, FRAMES)
            poor, _ = poor_clips(PICTURES[1], generator, FRAMES)
            return torch.cat([crisp, poor.flatten(0, 1)])

        images = self.data("pictures", make)

        def loss_of(generator: torch.Generator) -> Tensor:
            batch = images[torch.randint(len(images), (BATCH["vae"],), generator=generator)]
            y, x = torch.randint(33, (2,), generator=generator).tolist()
            batch = _to_signed(batch[..., y:y + 32, x:x + 32].to(self.device))
            posterior = self.vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            out = self.vae.decode(posterior.mean + posterior.std * noise).sample
            edges = sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (2, 3) for a, b in [(out, batch)])
            return (out - batch).abs().mean() + edges + 1e-5 * posterior.kl().mean() / batch[0].numel()

        self.fit("vae", [self.vae], loss_of)
        self.vae.requires_grad_(False)
        some = images[::max(1, len(images) // 512)]
        sample = self._encode(some)
        self.vae.register_to_config(scaling_factor=round(1 / float(sample.std()), 4))
        restored = self.vae.decode(sample).sample
        error = mse_loss(restored, _to_signed(some).to(self.device)) / 4
        self.log(stage="vae", scaling_factor=self.vae.config.scaling_factor, psnr=float(-10 * error.log10()))

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        return torch.cat([self.vae.encode(_to_signed(part.to(self.device))).latent_dist.mean
                          for part in images.split(128)])

    def train_image(self, stage: str) -> None:
        """The UNet and the text encoder on crisp stills; ``stage`` is "image", then "detail"."""
        def make() -> tuple[Tensor, list[str]]:
            images, captions = stills(STILLS, torch.Generator().manual_seed(SEED + 1), FRAMES)
            return self._encode(images) * self.vae.config.scaling_factor, captions

        latents, captions = self.data("stills", make)
        noise_of = _noise(Schedule.scaled_linear(), WEIGHT[stage], self.device)

        def loss_of(generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(latents), (BATCH[stage],), generator=generator)
            noisy, noise, t, weight = noise_of(latents[chosen].to(self.device), generator)
            words = self._words([captions[k] for k in chosen], generator)
            predicted = self.unet(noisy, t, self.text_encoder(words)[0]).sample
            return (weight * (predicted - noise) ** 2).mean()

        self.fit(stage, [self.unet, self.text_encoder], loss_of)

    def train_motion(self) -> UNetMotionModel:
        """Motion modules alone, on degraded clips."""
        self.unet.requires_grad_(False)
        self.text_encoder.requires_grad_(False)

        def make() -> tuple[Tensor, list[str]]:
            clips, captions = poor_clips(CLIPS, torch.Generator().manual_seed(SEED + 2), FRAMES)
            latents = self._encode(clips.flatten(0, 1)) * self.vae.config.scaling_factor
            return latents.unflatten(0, clips.shape[:2]), captions

        latents, captions = self.data("clips", make)
        odds = torch.tensor([TURNING if caption.endswith("turns") else 1.0 for caption in captions])
        noise_of = _noise(Schedule.linear(), WEIGHT["motion"], self.device)
        torch.manual_seed(SEED)
        model = UNetMotionModel.from_unet2d(self.unet, make_adapter()).to(self.device)
        model.freeze_unet2d_params()

        def loss_of(generator: torch.Generator) -> Tensor:
            chosen = torch.multinomial(odds, BATCH["motion"], generator=generator)
            clips = latents[chosen].transpose(1, 2).to(self.device)  # (clips, channels, frames, height, width)
            noisy, noise, t, weight = noise_of(clips, generator)
            words = self._words([captions[k] for k in chosen], generator)
            context = self.text_encoder(words)[0].repeat_interleave(FRAMES, 0)
            return (weight * (model(noisy, t, context).sample - noise) ** 2).mean()

        self.fit("motion", [model], loss_of)
        return model

    def _words(self, captions: list[str], generator: torch.Generator) -> Tensor:
        """Token ids; one caption in ten is left out, for guidance."""
        kept = torch.rand(len(captions), generator=generator) >= 0.1
        captions = [caption if keep else "" for caption, keep in zip(captions, kept)]
        return self.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids.to(self.device)

    def export(self, folder: Path, model: UNetMotionModel) -> None:
        """Writes the finished model as a diffusers AnimateDiffPipeline in half precision."""
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
                                  set_alpha_to_one=False, steps_offset=1)
        adapter = make_adapter()
        adapter.load_state_dict({k: v for k, v in model.state_dict().items() if "motion_modules" in k})
        pipeline = AnimateDiffPipeline(self.vae, self.text_encoder, self.tokenizer, self.unet, adapter, scheduler)
        pipeline.register_modules(unet=self.unet)  # in its place is the video model, which would hold everything twice
        pipeline.to(torch.float16).save_pretrained(folder)


def _pace(done: float) -> float:
    """The learning rate, as a share of its peak, when ``done`` (0 to 1) of a stage is behind: rises, then falls."""
    return min(1.0, done / 0.05 + 0.04) * 0.5 * (1 + math.cos(math.pi * done))


def _to_signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _noise(
    schedule: Schedule, most: float, device: torch.device,
) -> Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]:
    """(clean, generator) -> noisy, noise, timesteps, weights of the squared error.

    The weights are those of v-prediction, 1 / abar, up to ``most``: without them little is learned at high noise, where
    it is decided what a picture shows and what all frames share; with too much of them details stay coarse. At low
    noise they fall as those of min-SNR with gamma 5 (arXiv 2303.09556).
    """
    abar = torch.tensor([schedule.timestep_to_abar(t) for t in range(len(schedule))], device=device)

    def noise_of(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        t = torch.randint(len(abar), (len(clean),), generator=generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        a = abar[t].view(-1, *[1] * (clean.ndim - 1))
        weight = (1 / a).clamp(max=most) * (5 * (1 - a) / a).clamp(max=1)
        return a.sqrt() * clean + (1 - a).sqrt() * noise, noise, t, weight

    return noise_of


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, states and the log")
    parser.add_argument("--export", type=Path, help="folder for the finished model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    run = Run(args.work, torch.device(args.device))
    run.train_vae()
    run.train_image("image")
    run.train_image("detail")
    model = run.train_motion()
    if args.export:
        run.export(args.export, model)


if __name__ == "__main__":
    main()
