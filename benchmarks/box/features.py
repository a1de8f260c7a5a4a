"""Features for a Frechet distance: what a small network, trained on other drawn clips, has to see to tell clips apart.

It learns a clip's colour, shape and motion, and which flaw was given to it, so that its features hold what a clip shows
and how good it looks. Training takes a few minutes on a CPU, is seeded, and needs no file.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from ivmixed.standalone.box import FRAMES
from ivmixed.standalone.box.scenes import COLOURS, MOTIONS, SHAPES, random_scene, render

FEATURES = 24
FLAWS = ("none", "blur", "noise", "pale", "frozen", "jitter", "shuffled")


class Network(nn.Module):
    """Four convolutions over space and time; ``(clips, 3, frames, height, width)``, 0 to 1, to (clips, FEATURES)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, step in ((3, 12, (1, 2, 2)), (12, 24, (1, 2, 2)), (24, 48, 2), (48, 64, 2)):
            layers += [nn.Conv3d(before, after, 3, step, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(2 * 64, FEATURES)
        self.heads = nn.ModuleList(nn.Linear(FEATURES, len(words)) for words in (COLOURS, SHAPES, MOTIONS, FLAWS))

    def forward(self, clips: Tensor) -> Tensor:
        seen = self.body(2 * clips - 1).flatten(2)
        features: Tensor = self.features(torch.cat([seen.mean(2), seen.amax(2)], 1))
        return features


def train(steps: int = 1500, pool: int = 2000, seed: int = 7) -> tuple[Network, float]:
    """The network, and the share of flaws that it names rightly in its last tenth of steps."""
    generator = torch.Generator().manual_seed(1_000_000 + seed)  # clips that no other part of the benchmark draws
    torch.manual_seed(seed)
    scenes = [random_scene(generator) for _ in range(pool)]
    clips = torch.stack([(render(scene, FRAMES) * 255).to(torch.uint8) for scene in scenes])
    words = torch.tensor([[list(table).index(word) for table, word in zip(
        (COLOURS, SHAPES, MOTIONS), (scene.colour, scene.shape, scene.motion))] for scene in scenes])
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    right: list[float] = []
    for _ in range(steps):
        which = torch.randint(pool, (12,), generator=generator)
        flaws = torch.randint(len(FLAWS), (12,), generator=generator)
        batch = torch.stack([_flawed(clips[k].float() / 255, FLAWS[flaw], generator)
                             for k, flaw in zip(which, flaws.tolist())])
        features = network(batch.transpose(1, 2))
        targets = [*words[which].T, flaws]
        said = [head(features) for head in network.heads]
        loss = sum((cross_entropy(out, target) for out, target in zip(said, targets)), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append(float((said[3].argmax(1) == flaws).float().mean()))
    tail = right[-max(1, steps // 10):]
    return network.eval(), sum(tail) / len(tail)


def _flawed(clip: Tensor, flaw: str, generator: torch.Generator) -> Tensor:
    """A clip (frames, 3, height, width), 0 to 1, with a flaw of random strength."""
    strength = float(torch.rand((), generator=generator))
    if flaw == "blur":
        small = interpolate(clip, scale_factor=0.6 - 0.35 * strength, mode="bilinear", antialias=True)
        return interpolate(small, clip.shape[2:], mode="bilinear")
    if flaw == "noise":
        return clip + (0.03 + 0.12 * strength) * torch.randn(clip.shape, generator=generator)
    if flaw == "pale":
        return clip.mean() + (0.8 - 0.5 * strength) * (clip - clip.mean())
    if flaw == "frozen":
        return clip[len(clip) // 2].expand_as(clip)
    if flaw == "jitter":
        shifts = torch.randint(-3, 4, (len(clip), 2), generator=generator).tolist()
        return torch.stack([frame.roll(shift, (1, 2)) for frame, shift in zip(clip, shifts)])
    if flaw == "shuffled":
        return clip[torch.randperm(len(clip), generator=generator)]
    return clip


@torch.no_grad()
def features_of(network: Network, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """(clips, FEATURES) of clips (frames, height, width, 3)."""
    found = [network(torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255)[0] for clip in clips]
    features: NDArray[np.float64] = torch.stack(found).double().numpy()
    return features


def trained(path: Path | None) -> Network:
    """The network, from a file where there is one, else trained, and kept there where a path is given."""
    network = Network()
    if path is not None and path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    network, right = train()
    print(f"features: {right:.0%} of the flaws named rightly (chance: {1 / len(FLAWS):.0%})", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), path)
    return network
