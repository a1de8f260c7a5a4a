"""Clips to files and back, pictures of several clips, and the settings that travel with them.

A clip is a numpy array of uint8, (frames, height, width, 3), RGB. The ending of a file name says how it is stored:

    .gif    256 colours, one palette for the whole clip; loops for ever
    .mp4    H.264, colour at half resolution (4:2:0): plays everywhere
    .webm   VP9, colour at half resolution
    .webp   lossless; loops for ever
    .png    lossless, one file per frame: clip.png becomes clip-0001.png, clip-0002.png, ... side by side

Every file carries the settings as JSON in its own comment (GIF comment, PNG text ``Comment``, MP4 and WebM tag
``comment``, WebP EXIF user comment). A sidecar has them once more, as some web sites strip comments: clip.mp4 gets
clip.mp4.json.
"""
from __future__ import annotations

import itertools
import json
import math
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..clipfiles import ASCII, EXIF, FASTEST, USER_COMMENT, WRITERS, Frames, MediaError, numbered

_OWNER = "ivmixed"  # the key in the JSON that says whose it is
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, av.FFmpegError)  # what reading a bad file raises
_DARK, _LIGHT, _GAP, _FONT = 24, 235, 8, 14  # grey levels; pixels


def as_frames(clip: Tensor) -> Frames:
    """A tensor on any device as a clip: uint8 (frames, height, width, 3) as it is, or float (frames, 3, height, width)
    from 0 to 1, rounded, values outside clipped."""
    if clip.dtype != torch.uint8:
        clip = clip.detach().float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    frames: Frames = clip.contiguous().cpu().numpy()
    return frames


# --- writing

def check_out(path: str | Path, fps: float) -> None:
    """Refuses what `write_clip` could not write, before anything is computed. ``fps``: frames a second.

    Raises MediaError: unknown ending, folder missing or not writable, ``path`` is a folder, fps out of range.
    """
    path = Path(path)
    fastest = FASTEST.get(path.suffix.lower())
    if fastest is None:
        raise MediaError(f"out = {str(path)!r} has an unknown ending; allowed: {', '.join(FASTEST)}")
    if not 0.1 <= fps <= fastest:
        raise MediaError(f"fps = {fps!r} is not allowed for {path.suffix}; allowed: a number from 0.1 to {fastest:g}")
    if path.is_dir():
        raise MediaError(f"out = {str(path)!r} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise MediaError(f"out = {str(path)!r} is in a folder that does not exist; make {str(path.parent)!r} first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise MediaError(f"out = {str(path)!r} is in a folder that you may not write to; choose another one")


def write_clip(
    path: str | Path, frames: Frames | Tensor | Sequence[Frames], fps: float, settings: Mapping[str, Any],
) -> list[Path]:
    """Writes a clip and its sidecar, whole or not at all. Returns the files: the clip's in order, the sidecar last.

    ``frames``: a clip, or a sequence of its frames, as arrays or tensors. ``fps``: frames a second; a GIF
    counts in 1/100 s, so its delays vary (8 fps: 12, 13, 12, ...) and the clip keeps its length. ``settings``: what
    JSON can hold. All is written to a hidden folder beside ``path`` and moved into place at the end: an error or
    Ctrl-C leaves nothing behind and older files as they were. Surplus frames of an older clip.png are removed.

    Raises MediaError (as `check_out`; also odd sizes for MP4 and WebM, and a full disk), ValueError for frames of
    another shape or type or none, TypeError for settings that are no JSON.
    """
    path = Path(path)
    check_out(path, fps)
    mark = {_OWNER: dict(settings), "fps": float(fps), "frames": len(frames)}
    comment = json.dumps(mark)  # pure ASCII, which every format carries unharmed
    readable = json.dumps(mark, ensure_ascii=False, indent=2) + "\n"
    try:
        with tempfile.TemporaryDirectory(prefix=".ivmixed-", dir=path.parent) as folder:
            files = WRITERS[path.suffix.lower()](Path(folder, path.name), _checked(frames), fps, comment)
            files.append(_sidecar(Path(folder, path.name)))
            files[-1].write_bytes(readable.encode("utf-8", "backslashreplace"))  # JSON escapes what UTF-8 cannot hold
            for file in files:
                os.replace(file, path.parent / file.name)
    except (OSError, av.FFmpegError) as error:
        raise MediaError(f"{path} could not be written: {error.strerror or error}") from error
    if path.suffix.lower() == ".png":
        for surplus in numbered(path, start=len(files)):
            if not surplus.exists() or _mark(surplus) is None:
                break
            surplus.unlink()
    return [path.parent / file.name for file in files]


def write_picture(path: Path, picture: Image.Image) -> None:
    """Writes a picture whole or not at all. Raises MediaError."""
    try:
        with tempfile.TemporaryDirectory(prefix=".ivmixed-", dir=path.parent) as folder:
            picture.save(Path(folder, path.name))
            os.replace(Path(folder, path.name), path)
    except OSError as error:
        raise MediaError(f"{path} could not be written: {error.strerror or error}") from error


def _checked(frames: Frames | Tensor | Sequence[Frames]) -> Iterator[Frames]:
    if not len(frames):
        raise ValueError("a clip needs at least one frame")
    for k, frame in enumerate(map(np.asarray, frames)):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != frames[0].shape:
            raise ValueError(f"frame {k} is {frame.dtype} {frame.shape}; needed: uint8 (height, width, 3), all alike")
        yield frame


# --- reading

def read_clip(path: str | Path) -> tuple[Frames, float]:
    """A clip and its frames a second (0 where nothing says), from any file that `write_clip` writes, or a like one.

    ``path``: as it was given to `write_clip`; one of several PNG frames is a clip of its own, and a folder of PNG
    frames is one clip, in the order of their names. A frame that a GIF or WebP stores once and shows for longer comes
    back as often as it was written. Raises MediaError.
    """
    path = Path(path)
    files = _present(path)
    ending = files[0].suffix.lower()
    try:
        if ending in (".mp4", ".webm"):
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                return (np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]),
                        float(stream.average_rate or 0))
        if ending == ".png":
            mark = _mark(path) or {"fps": 0.0}
            return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]), mark["fps"]
        return _read_animation(path)
    except _BROKEN as error:
        raise MediaError(f"{path} cannot be read as a clip; it may be damaged, or another format than its ending says"
                         ) from error


def clips_at(path: str | Path) -> list[Path]:
    """What `read_clip` can read at ``path``: the clips in a folder, by name, or ``path`` itself where it is a clip.

    A folder that holds PNG files alone is a clip of its own; beside other clips they are left out. Only names are
    looked at. Raises MediaError.
    """
    path = Path(path)
    inside = sorted(file for file in path.iterdir() if file.suffix.lower() in FASTEST) if path.is_dir() else []
    clips = [file for file in inside if file.suffix.lower() != ".png"] or [path]
    for clip in clips:
        _present(clip)
    return clips


def _read_animation(path: Path) -> tuple[Frames, float]:
    frames, ends = [], [0.0]
    with Image.open(path) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
            ends.append(ends[-1] + image.info.get("duration", 0) / 1000)
    clip = np.stack(frames)
    mark = _mark(path)
    if mark is None:
        return clip, len(clip) / ends[-1] if ends[-1] else 0.0
    moments = (np.arange(mark["frames"]) + 0.5) / mark["fps"]
    return clip[np.searchsorted(ends[1:-1], moments)], mark["fps"]


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that `write_clip` put into a clip and its sidecar; ``path`` is either of them.

    What the clip itself says wins; the sidecar serves where it says nothing. Raises MediaError where both are silent.
    """
    path = Path(path)
    for file in (path, _sidecar(path)):
        mark = _mark(file)
        if mark is not None:
            return dict(mark[_OWNER])
    _present(path)
    raise MediaError(f"{path} holds no settings of IV-mixed, and there is no {_sidecar(path).name} beside it")


def _mark(path: Path) -> dict[str, Any] | None:
    """What `write_clip` wrote into a clip or a sidecar, ``None`` where there is no such file or it says nothing."""
    try:
        mark = json.loads(_comment(_present(path)[0]))
    except _BROKEN:  # also what is no JSON
        return None
    return mark if isinstance(mark, dict) and isinstance(mark.get(_OWNER), dict) else None


def _comment(file: Path) -> str:
    """The comment in a file, "" where it has none. Raises what Pillow, PyAV and the file system raise."""
    ending = file.suffix.lower()
    if ending == ".json":
        return file.read_text("utf-8")
    if ending in (".mp4", ".webm"):
        with av.open(str(file)) as container:
            return str({key.lower(): text for key, text in container.metadata.items()}.get("comment", ""))
    with Image.open(file) as image:
        if ending == ".webp":
            comment = image.getexif().get_ifd(EXIF).get(USER_COMMENT, b"").removeprefix(ASCII)
        else:
            comment = image.info.get("Comment" if ending == ".png" else "comment", "")
    return comment.decode("ascii", "replace") if isinstance(comment, bytes) else str(comment)


def _present(path: Path) -> list[Path]:
    """The files of a clip, or the sidecar itself. Raises MediaError where there are none."""
    if path.is_dir():
        return _frames_in(path)
    ending = path.suffix.lower()
    if ending not in (*FASTEST, ".json"):
        raise MediaError(f"{path} has an unknown ending; allowed: {', '.join(FASTEST)}")
    files = list(itertools.takewhile(Path.is_file, numbered(path))) if ending == ".png" else []
    if not files and not path.is_file():
        raise MediaError(f"there is no file {path}")
    return files or [path]


def _frames_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")
    names = {re.sub(r"\d+", "", file.stem) for file in files}
    if len(names) != 1:
        raise MediaError(f"{folder} holds {'PNG frames of more than one clip' if names else 'no clip'}; allowed: "
                         f"a file ({', '.join(FASTEST)}), or a folder of the PNG frames of one clip")
    return files


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


# --- pictures of several clips

def side_by_side(clips: Sequence[Frames], captions: Sequence[str]) -> Frames:
    """One clip of several alike, each below its caption; small ones are enlarged by a whole factor to 256 pixels.

    ``clips``: all of one shape. The result has an even height and width, as MP4 needs. Raises ValueError.
    """
    if len({clip.shape for clip in clips}) != 1 or len(captions) != len(clips):
        raise ValueError(f"clips of shapes {[clip.shape for clip in clips]} and {len(captions)} captions; "
                         f"needed: one shape, and a caption for each")
    large = [_enlarged(clip, 256) for clip in clips]
    count, _, width, _ = large[0].shape
    heads = [_text(caption, width) for caption in captions]
    tallest = max(len(head) for head in heads)
    heads = [_padded(head, tallest, width) for head in heads]
    panels = [np.concatenate([np.broadcast_to(head, (count, *head.shape)), clip], axis=1)
              for head, clip in zip(heads, large)]
    joined = _joined(panels, axis=2)
    height, width = joined.shape[1:3]
    return np.stack([_padded(frame, height + height % 2, width + width % 2) for frame in joined])


def contact_sheet(rows: Sequence[Frames], labels: Sequence[str], columns: int = 8) -> Image.Image:
    """A row for every clip, below its label: ``columns`` frames, evenly chosen from the first to the last.

    A shorter clip shows each of its frames once; small ones are enlarged by a whole factor to 128 pixels. Raises
    ValueError.
    """
    if not rows or len(labels) != len(rows) or columns < 1:
        raise ValueError(f"{len(rows)} clips, {len(labels)} labels, {columns} columns; "
                         f"needed: a label for each clip, at least one clip and column")
    strips = []
    for clip in rows:
        chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
        strips.append(_joined(list(_enlarged(clip[chosen], 128)), axis=1))
    width = max(strip.shape[1] for strip in strips)
    parts = [part for label, strip in zip(labels, strips)
             for part in (_text(label, width), _padded(strip, len(strip), width))]
    return Image.fromarray(np.concatenate(parts))


def _enlarged(clip: Frames, visible: int) -> Frames:
    """Every pixel repeated, so that the clip is at least ``visible`` pixels high."""
    factor = math.ceil(visible / clip.shape[1])
    return clip.repeat(factor, axis=1).repeat(factor, axis=2)


def _padded(image: Frames, height: int, width: int) -> Frames:
    missing = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    return np.pad(image, missing, constant_values=_DARK)


def _joined(parts: Sequence[Frames], axis: int) -> Frames:
    """The parts next to each other along the width, which is ``axis``, with gaps between."""
    shape = list(parts[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _DARK, np.uint8)
    return np.concatenate([piece for part in parts for piece in (gap, part)][1:], axis=axis)


def _text(text: str, width: int) -> Frames:
    """Text on dark ground, broken into lines that fit ``width``."""
    font = ImageFont.load_default(_FONT)
    most = max(1, min(len(text), width))
    lines = next((lines for size in range(most, 0, -1) for lines in [textwrap.wrap(text, size)]
                  if all(font.getlength(line) <= width - _GAP for line in lines)), [])
    line_height = round(1.4 * _FONT)
    image = Image.new("RGB", (width, line_height * max(1, len(lines)) + _GAP // 2), (_DARK,) * 3)
    draw = ImageDraw.Draw(image)
    for k, line in enumerate(lines):
        draw.text((_GAP // 2, _GAP // 4 + k * line_height), line, fill=(_LIGHT,) * 3, font=font)
    return np.asarray(image)
