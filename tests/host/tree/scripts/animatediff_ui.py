"""What AnimateDiff's panel sends."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class AnimateDiffProcess:
    model: str = "v3"
    enable: bool = True
    video_length: int = 16
    fps: int = 8
    closed_loop: str = "R-P"
    batch_size: int = 16
    """The context window, in frames."""
    stride: int = 1
    overlap: int = 4
    format: list = field(default_factory=list)
    prompt_map: dict = field(default_factory=dict)
    """Prompt travel: frames with a prompt of their own; between two of them the conditioning is mixed."""
    step: int = 0
    text_cond: Any = None
    prompt_scheduler: Any = field(default=None, repr=False, compare=False)

    def multi_cond(self, cond, closed_loop=False):
        if not self.prompt_map:
            return cond
        keys, rows = sorted(self.prompt_map), []
        for frame in range(len(cond)):
            before = max((key for key in keys if key <= frame), default=keys[0])
            after = min((key for key in keys if key > frame), default=before)
            part = (frame - before) / (after - before) if after != before else 0.0
            rows.append(torch.lerp(cond[before], cond[after], part))
        return torch.stack(rows)

    def set_overlap(self):
        if self.overlap == -1:
            self.overlap = self.batch_size // 4

    def write(self, p, res):
        """In the page the files are the result, by their names; without one the frames stay."""
        if p.is_api or "GIF" not in self.format:
            return
        folder = Path(p.outpath_samples, "AnimateDiff")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{sum(1 for _ in folder.iterdir()):05}-{res.all_seeds[0]}.gif"
        first, *rest = res.images[:self.video_length]
        first.save(path, save_all=True, append_images=rest, duration=1000 / self.fps, loop=0)
        res.images = [str(path)]
