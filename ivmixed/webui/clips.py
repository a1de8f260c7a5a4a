"""The frames of a request with built-in motion become one clip: in files, in the gallery, in the API's answer."""
from __future__ import annotations

import base64
import datetime
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules import images, shared

from ..clipfiles import WRITERS, Frames, can_write, write_png
from ..motion import FORMATS
from ..options import OptionError
from . import log, selectable
from .motion import Clip

MOVING = {".gif", ".webp"}
"""What browsers show as a picture."""
PLAYED = (".mp4", ".webm", ".webp", ".gif")
"""What they play, the best first."""

NEEDS_AV = "MP4 and WebM need the Python package av, which is not installed here (pip install av)"


def ending(name: str) -> str:
    """Of a file of that format."""
    return "." + name.lower()


def check(formats: Sequence[str]) -> None:
    """Refuses what this host cannot write, before anything is computed. Raises OptionError."""
    missing = [name for name in formats if not can_write(ending(name))]
    if missing:
        there = [name for name in FORMATS if can_write(ending(name))]
        raise OptionError("formats", list(formats), f"{', '.join(there)}; {NEEDS_AV}")


def finish(clip: Clip, result: Any) -> None:
    """Writes what a request made, and puts it into the host's ``result``."""
    first = result.index_of_first_image
    texts = result.infotexts[first:]
    made = result.images[first:]
    frames = made[::max(1, len(made) // max(1, len(texts)))]  # inpainting may put masks between them
    shown: list[Any] = []
    infotexts: list[str] = []
    for start in range(0, len(frames) - clip.frames + 1, clip.frames):
        part = frames[start:start + clip.frames]
        with _folder(clip) as folder:
            files, problem = _write(folder, clip, part, result.all_seeds[start], texts[start])
            clip.files += files
            shown += _shown(clip.p, files, part, texts[start])
        result.comments += problem
        if problem and (run := selectable.of(clip.p)) is not None:
            run.problems.append(problem.strip())
        infotexts += [texts[start]] * (len(shown) - len(infotexts))
    if shown:
        result.images, result.infotexts, result.index_of_first_image = shown, infotexts, 0


def keep(p: Any, batch: Any) -> None:
    """Keeps the frames of a request that wants them, as uint8 (height, width, 3); the host's ``batch`` has them."""
    kept = getattr(p, "iv_mixed_frames", None)
    if kept is not None:
        kept += [(255 * picture.permute(1, 2, 0).cpu().float().numpy()).astype(np.uint8) for picture in batch.images]


def to_play(files: Sequence[Path], frames: Sequence[Frames], fps: float) -> Path:
    """The file that a page plays: a video, else a moving picture, else a GIF of its own in a temporary folder."""
    found = next((file for suffix in PLAYED for file in files if file.suffix == suffix), None)
    if found is None:
        found = Path(tempfile.mkdtemp(prefix="iv-mixed-"), "clip.gif")
        WRITERS[".gif"](found, iter(frames), fps, "")
    return found


def _write(folder: Path, clip: Clip, frames: Sequence[Image.Image], seed: int, text: str) -> tuple[list[Path], str]:
    """The files of a clip, and what went wrong. Where one cannot be written the frames are, so that none are lost."""
    number = images.get_next_sequence_number(str(folder), "")
    stem = folder / f"{number:05}-{seed}"
    comment = text if shared.opts.enable_pnginfo else ""
    pictures = [np.asarray(frame.convert("RGB")) for frame in frames]
    files, problems = [], []
    left = [ending(name) for name in clip.options.formats]
    while left:
        suffix = left.pop(0)
        path = stem.with_suffix(suffix)
        write = partial(write_png, key="parameters") if suffix == ".png" else WRITERS[suffix]
        try:
            files += write(path, iter(pictures), clip.options.fps, comment)
        except Exception as error:  # whatever an encoder or a disk raises: the clip was made and must not be lost
            problems.append(f"IV-mixed motion: {path} could not be written ({type(error).__name__}: {error})")
            log.warning(problems[-1])
            if suffix != ".png" and ".png" not in left and not any(file.suffix == ".png" for file in files):
                left.append(".png")
    return files, "".join(f"\n{problem}" for problem in problems)


@contextmanager
def _folder(clip: Clip) -> Iterator[Path]:
    """Beside the host's pictures; where these are not saved a temporary one, which a page goes on needing."""
    if clip.saved and shared.opts.samples_save:
        folder = Path(clip.p.outpath_samples, "IV-mixed", datetime.date.today().isoformat())
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    elif _asked_by_api(clip.p):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    else:
        yield Path(tempfile.mkdtemp(prefix="iv-mixed-"))


def _asked_by_api(p: Any) -> bool:
    return bool(getattr(p, "is_api", False))


def _shown(p: Any, files: Sequence[Path], frames: Sequence[Image.Image], text: str) -> list[Any]:
    """What the host goes on with in the place of a clip."""
    by_api = _asked_by_api(p)
    answer = _answer(files, frames) if by_api else _gallery(files, frames)
    run = selectable.of(p)
    if run is None:
        return answer
    return [selectable.stand_in(run, frames[0] if by_api else answer[0], answer, text)]


def _answer(files: Sequence[Path], frames: Sequence[Image.Image]) -> list[Any]:
    """For the API: the files in base64, which the host passes on, and the frames where asked for or nothing else is."""
    whole = [base64.b64encode(file.read_bytes()).decode() for file in files if file.suffix != ".png"]
    return [*whole, *(frames if not whole or any(file.suffix == ".png" for file in files) else [])]


def _gallery(files: Sequence[Path], frames: Sequence[Image.Image]) -> list[Image.Image]:
    """For the page: the moving picture, which the host shows from its file; or the frames."""
    moving = next((file for file in files if file.suffix in MOVING), None)
    if moving is None:
        return list(frames)
    picture = frames[0].copy()
    picture.already_saved_as = str(moving)  # type: ignore[attr-defined]
    return [picture]
