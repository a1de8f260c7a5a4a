"""VideoCrafter2 as its file has it: names and shapes in the order of the original network, random weights, recordings.

``python -m tests.videocrafter recording PATH`` prints how far network and sampler are from a recording (see
`Recorded`), and exits with 1 where that is beyond `BOUND`;
``python -m tests.videocrafter files FOLDER`` writes random files of full size in float16, 6 GB: VideoCrafter2's
``model.ckpt`` and a Stable Diffusion 1.5 as ``sd15.safetensors``.
"""
from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ivmixed import Options, Schedule, make_plan, sample_iv_mixed
from ivmixed.standalone import assemble
from ivmixed.standalone.denoiser import Denoiser
from ivmixed.standalone.videocrafter import VideoCrafterUNet, unet_config, unet_state

from .layouts import attention_block, dense, norm

NETWORK = "model.diffusion_model."
BOUND = 1e-4
"""How far what we make may be from a recording; see `Recorded.report`."""
FULL = {"model_channels": 320, "channel_mult": (1, 2, 4, 4), "num_head_channels": 64, "context_dim": 1024}


def unet_shapes(model_channels: int, channel_mult: Any, num_head_channels: int, context_dim: int,
                in_channels: int = 4, **about: Any) -> dict[str, tuple[int, ...]]:
    """The UNet of VideoCrafter2: 1,484 tensors. The arguments are those of a recording's JSON.

    Source: AILab-CVC/VideoCrafter, ``lvdm/modules/networks/openaimodel3d.py``.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    widths = [model_channels * factor for factor in channel_mult]
    first, time = model_channels, 4 * model_channels
    last = len(widths) - 1

    def block(name: str, inp: int, out: int, attention: bool) -> None:
        shapes.update(norm(f"{name}.0.in_layers.0", inp) | dense(f"{name}.0.in_layers.2", out, inp, 3, 3))
        shapes.update(dense(f"{name}.0.emb_layers.1", out, time) | norm(f"{name}.0.out_layers.0", out))
        shapes.update(dense(f"{name}.0.out_layers.3", out, out, 3, 3))
        if inp != out:
            shapes.update(dense(f"{name}.0.skip_connection", out, inp, 1, 1))
        for number, place in (1, 2), (2, 3), (3, 3), (4, 3):
            conv = f"{name}.0.temopral_conv.conv{number}"
            shapes.update(norm(f"{conv}.0", out) | dense(f"{conv}.{place}", out, out, 3, 1, 1))
        if attention:
            transformer(f"{name}.1", out, out, context_dim)
            transformer(f"{name}.2", out, out, out)

    def transformer(name: str, width: int, inner: int, context: int, *kernel: int) -> None:
        part = f"{name}.transformer_blocks.0"
        shapes.update(norm(f"{name}.norm", width) | dense(f"{name}.proj_in", inner, width, *kernel))
        layers = attention_block(part, inner, (("attn1", inner), ("attn2", context)))
        order = ("attn1", "ff", "attn2")
        shapes.update({key: shape for which in order for key, shape in layers.items() if f".{which}." in key})
        for number in (1, 2, 3):
            shapes.update(norm(f"{part}.norm{number}", inner))
        shapes.update(dense(f"{name}.proj_out", width, inner, *kernel))

    for embedding in ("time_embed", "fps_embedding"):
        shapes |= dense(f"{embedding}.0", time, first) | dense(f"{embedding}.2", time, time)
    shapes |= dense("input_blocks.0.0", first, in_channels, 3, 3)
    skips, current, index = [first], first, 1
    for level, width in enumerate(widths):
        for _ in range(2):
            block(f"input_blocks.{index}", current, width, level < last)
            skips.append(current := width)
            index += 1
        if level < last:
            shapes |= dense(f"input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
            index += 1
    heads = 8 * num_head_channels
    transformer("init_attn.0", first, heads, heads, 1)
    block("middle_block", current, current, True)
    middle = {name: shape for name, shape in shapes.items() if name.startswith("middle_block.0.")}
    shapes |= {name.replace("block.0.", "block.3."): shape for name, shape in middle.items()}
    for index in range(3 * len(widths)):
        level = last - index // 3
        block(f"output_blocks.{index}", current + skips.pop(), current := widths[level], level < last)
        if index % 3 == 2 and level > 0:
            place = 3 if level < last else 1
            shapes |= dense(f"output_blocks.{index}.{place}.conv", current, current, 3, 3)
    shapes |= norm("out.0", current) | dense("out.2", 4, current, 3, 3)
    return {NETWORK + name: shape for name, shape in shapes.items()}


def text_shapes(width: int, layers: int = 24, words: int = 49408, positions: int = 77) -> dict[str, tuple[int, ...]]:
    """OpenCLIP's text encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (positions, width), "text_projection": (width, width), "logit_scale": (),
        "token_embedding.weight": (words, width)}
    for number in range(layers):
        layer = f"transformer.resblocks.{number}"
        shapes |= norm(f"{layer}.ln_1", width) | {f"{layer}.attn.in_proj_weight": (3 * width, width),
                                                  f"{layer}.attn.in_proj_bias": (3 * width,)}
        shapes |= dense(f"{layer}.attn.out_proj", width, width) | norm(f"{layer}.ln_2", width)
        shapes |= dense(f"{layer}.mlp.c_fc", 4 * width, width) | dense(f"{layer}.mlp.c_proj", width, 4 * width)
    return {f"cond_stage_model.model.{name}": shape for name, shape in (shapes | norm("ln_final", width)).items()}


def random(shapes: dict[str, tuple[int, ...]], seed: int,
           dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """The weights of the recordings: tensor by tensor in the order of ``shapes``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            noise *= 0.7 / math.sqrt(math.prod(shape[1:]))
        else:
            noise = 0.02 * noise if name.endswith("bias") else 1 + 0.05 * noise
        tensors[name] = noise.to(dtype)
    return tensors


def network(tensors: dict[str, torch.Tensor]) -> VideoCrafterUNet:
    """The network of a file, in float32."""
    config = unet_config(tensors)
    unet: VideoCrafterUNet = assemble.build("VideoCrafterUNet", config, unet_state(tensors, config), torch.float32)
    return unet


class Recorded:
    """A run of the original network: ``path`` names its files, without ``.json`` and ``.safetensors``.

    Where there is no ``.weights.safetensors`` beside them the weights are made of the JSON's ``weights_seed``.
    """

    def __init__(self, path: str | Path):
        self.about: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
        self.tensors = load_file(f"{path}.safetensors")
        weights = Path(f"{path}.weights.safetensors")
        self.weights = load_file(weights) if weights.exists() else random(
            unet_shapes(**self.about), self.about["weights_seed"])
        self.unet = network(self.weights)

    def words(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors["uncond"], self.tensors["cond"]

    @torch.no_grad()
    def eps(self) -> dict[str, torch.Tensor]:
        """The network's answer for every recorded one: ``eps.501`` at the JSON's fps, ``eps.501.fps8`` at 8."""
        answers = {}
        for name in self.tensors:
            if name.startswith("eps."):
                _, timestep, *told = name.split(".")
                fps = float(told[0].removeprefix("fps")) if told else self.about["fps"]
                answers[name] = self.unet(self.tensors["x"], torch.tensor(int(timestep)), self.tensors["cond"],
                                          fps=fps)[0]
        return answers

    def ddim(self, table: Schedule, first: int = 0, end: int | None = None) -> dict[str, torch.Tensor]:
        """The original DDIM loop by our sampler, on a noise table: the network's inputs and the result, as recorded.
        ``first``, ``end``: steps to begin at, with the recorded input, and to stop before."""
        steps = self.about["ddim_timesteps"]
        end = len(steps) if end is None else end
        timesteps = [*steps, 0][first:end + 1]
        denoiser = Denoiser(self.unet, table, "epsilon", *self.words(), told={"fps": self.about["fps"]})
        inputs: list[torch.Tensor] = []
        hook = self.unet.conv_in.register_forward_pre_hook(lambda layer, given: inputs.append(given[0]))
        sigmas = [table.timestep_to_sigma(timestep) for timestep in timesteps]
        x = self.tensors[f"ddim.{first:02}.input"][0].transpose(0, 1)
        plan = make_plan(Options(interval=(0, 0)), sigmas, table)
        x = sample_iv_mixed(denoiser, x * table.input_norm(sigmas[0]), torch.tensor(sigmas, dtype=torch.float64),
                            {"cond_scale": self.about["cfg"]}, plan=plan, disable=True,
                            on_move=lambda move: denoiser.expect(move, plan)) / table.input_norm(sigmas[-1])
        hook.remove()
        assert len(inputs) == len(timesteps) - 1
        seen = {f"ddim.{first + k:02}.input": given[:len(x)] for k, given in enumerate(inputs)}
        seen["ddim.final" if end == len(steps) else f"ddim.{end:02}.input"] = x
        return {name: latent.transpose(0, 1)[None] for name, latent in seen.items()}

    def step_by_step(self, table: Schedule) -> dict[str, torch.Tensor]:
        """The same, but every step begins with the recorded input."""
        single = [self.ddim(table, k, k + 1) for k in range(len(self.about["ddim_timesteps"]))]
        return {name: latent for step in single for name, latent in list(step.items())[1:]}

    def difference(self, name: str, ours: torch.Tensor) -> tuple[float, float]:
        """The largest difference from what is recorded, and that in units of the recorded one's deviation."""
        expected = self.tensors[name]
        largest = (ours - expected).abs().max().item()
        return largest, largest / expected.std().item()

    def report(self, table: Schedule) -> tuple[list[str], bool]:
        """A line for every recorded tensor, and whether all is within `BOUND`: the absolute difference of the network's
        answers, of single steps and of latents of a deviation up to 1, and the relative one of larger latents."""
        lines, within = [f"{'':16}{'absolute':>10}{'relative':>10}{'one step':>10}"], True
        alone = {name: self.difference(name, ours)[0] for name, ours in self.step_by_step(table).items()}
        for name, ours in {**self.eps(), **self.ddim(table)}.items():
            absolute, relative = self.difference(name, ours)
            step = f"{alone[name]:10.1e}" if name in alone else ""
            lines.append(f"{name:16}{absolute:10.1e}{relative:10.1e}{step}")
            measure = absolute if name.startswith("eps.") else min(absolute, relative)
            within = within and max(measure, alone.get(name, 0)) < BOUND
        return lines, within


def checkpoint_shapes(about: dict[str, Any], vae: tuple[int, ...], layers: int = 24) -> dict[str, tuple[int, ...]]:
    """What a ``model.ckpt`` holds: network, VAE and text encoder. ``vae``: the channels of the VAE's levels."""
    from .test_loading import vae_shapes

    return unet_shapes(**about) | vae_shapes(vae) | text_shapes(about["context_dim"], layers)


def write_files(folder: Path) -> None:
    from .test_loading import FULL as STABLE_DIFFUSION
    from .test_loading import checkpoint_shapes as stable_diffusion_shapes

    folder.mkdir(parents=True, exist_ok=True)
    tensors = random(checkpoint_shapes(FULL, STABLE_DIFFUSION["vae"]), seed=0)
    torch.save({"state_dict": tensors, "global_step": 0}, folder / "model.ckpt")
    save_file(random(stable_diffusion_shapes(**STABLE_DIFFUSION), seed=1), folder / "sd15.safetensors")


if __name__ == "__main__":
    what, path = sys.argv[1:]
    if what == "files":
        write_files(Path(path))
    else:
        lines, within = Recorded(path).report(Schedule.videocrafter2())
        print(*lines, f"{'within' if within else 'NOT within'} {BOUND}", sep="\n")
        sys.exit(not within)
