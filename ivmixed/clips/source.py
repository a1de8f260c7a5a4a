"""Frames of a clip that another clip begins with, or is controlled by: in time order, at a rate, in a number, cropped.

A video is read no further than it is needed, picture by picture, so that its length costs nothing; what files are, and
what is too large, is as in `decode`.
"""
from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..untrusted import shown
from . import decode, media
from .encode import MediaError

SLACK = 0.01
"""Seconds by which a picture may come late: a GIF counts in these."""
BACKGROUND = "#ffffff"
"""What shows through where a picture is transparent, as the WebUIs have it."""


class Excerpt(NamedTuple):
    """What was taken of a clip."""

    frames: list[Image.Image]
    """RGB, as ``fit`` made them."""
    said: str
    """How they were chosen, and what was left, in a line."""
    size: tuple[int, int]
    """(width, height) of the clip in pixels, as it is shown."""
    fps: float
    """Pictures a second of the clip, 0 where nothing says."""


class _Shown(NamedTuple):
    """A picture of a clip, from when to when it is shown (seconds, the same where nothing says), and what decodes it.
    """

    start: float
    end: float
    picture: Callable[[], Image.Image]


@dataclass
class _Content:
    """An open clip."""

    pictures: Callable[[], Iterator[_Shown]]
    """Begins anew at every call."""
    fps: float = 0.0
    sound: bool = False


def take(path: str | Path, frames: int | None, fps: float, *, most: int = 16,
         fit: Callable[[Image.Image], Image.Image] = lambda picture: picture, background: str = BACKGROUND,
         last: bool = False) -> Excerpt:
    """``frames`` frames of the clip at ``path``, ``fps`` of each second, from its start.

    ``path``: GIF, MP4, WebM, WebP, PNG, by its first bytes, or a folder of the PNG frames of one clip; frames without
    times are taken one after another. ``frames``: None for as many as there are, ``most`` of them. Where the clip ends
    before, they are spread evenly over it, so that it plays slower; `Excerpt.said` says so. ``fit``: what is kept of
    each picture, upright, in square pixels, RGB on ``background``; at once, so that large pictures take no memory.
    ``last``: the last ``frames`` instead, fewer where there are fewer. Raises MediaError: no clip, damaged, too large.
    """
    path = Path(path)
    wanted = most if frames is None else frames
    name = shown(path.name or str(path), 60)
    with decode.reading(path), _opened(path) as content:
        sizes: list[tuple[int, int]] = []

        def fitted(picture: Image.Image) -> Image.Image:
            sizes.append(picture.size)
            made = fit(_flattened(picture, background))
            decode.allow(path, wanted, made.size)
            return made

        if last:
            # made small at once: pictures as they are decoded may be large
            taken = list(deque((fitted(picture.picture()) for picture in _rated(path, content, fps)), wanted))
            if not taken:
                raise MediaError(f"{shown(str(path))} holds no picture")
            return Excerpt(taken, f"the last {_frames(len(taken))} of {name}, {fps:g} a second", sizes[0], content.fps)
        taken, there, end = _at(content.pictures(), [k / fps for k in range(wanted)], fitted)
        if not there:
            raise MediaError(f"{shown(str(path))} holds no picture")
        if not end:  # nothing says when they are shown
            taken, there, _ = _at(_one_by_one(content.pictures(), fps), [k / fps for k in range(wanted)], fitted)
            said = f"{_frames(len(taken))} of {name}, one after another"
        else:
            said = f"{_frames(len(taken))} of {name}, {fps:g} a second from its start"
        if len(taken) < (frames or 1):
            frames = frames or 1
            length, pictures = end, content.pictures
            if not end:
                length, pictures = there / fps, lambda: _one_by_one(content.pictures(), fps)
            found = len(taken)
            taken, _, _ = _at(pictures(), [k * length / frames for k in range(frames)], fitted)
            said = (f"{name} has {_frames(found)} at {fps:g} a second: the {frames} of the clip are "
                    "spread evenly over it")
        if content.sound:
            said += "; its sound is left out"
        return Excerpt(taken, said, sizes[0], content.fps)


def _frames(count: int) -> str:
    return f"{count} frame" + "s" * (count != 1)


def crop_and_resize(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture that fills ``width`` x ``height`` pixels, its middle, as the WebUIs' "Crop and resize" makes it.

    Source: ``resize_image`` (mode 1) in the hosts' ``modules/images.py``.
    """
    wide = width / height > picture.width / picture.height
    across = width if wide else picture.width * height // picture.height
    down = picture.height * width // picture.width if wide else height
    filled = Image.new("RGB", (width, height))
    filled.paste(picture.resize((across, down), Image.Resampling.LANCZOS),
                 (width // 2 - across // 2, height // 2 - down // 2))
    return filled


def _at(pictures: Iterable[_Shown], times: list[float], fitted: Callable[[Image.Image], Image.Image],
        ) -> tuple[list[Image.Image], int, float]:
    """What is shown at ascending ``times``, as many as the clip has; how many pictures were looked at, and where it
    ends (0: nothing says; elsewhere only true where the clip has fewer)."""
    slack = min(SLACK, (times[1] - times[0]) / 2) if len(times) > 1 else SLACK
    waiting, taken, count, end = list(times), [], 0, 0.0
    last: tuple[_Shown, list[Image.Image]] | None = None

    def give(until: float) -> None:
        assert last is not None
        picture, made = last
        while waiting and waiting[0] + slack < until:
            if not made:
                made.append(fitted(picture.picture()))
            taken.append(made[0])
            waiting.pop(0)

    for picture in pictures:
        if last is not None:
            give(picture.start)
        count, end, last = count + 1, picture.end, (picture, [])
        if not waiting:
            return taken, count, end
    if last is not None:
        give(end)
    return taken, count, end


def _rated(path: Path, content: _Content, fps: float) -> Iterator[_Shown]:
    """All pictures of a clip, ``fps`` of each second; one after another where nothing says when they are shown.

    Raises MediaError where these are more than a clip may have: a picture may be shown for years.
    """
    number, slack = 0, min(SLACK, 0.5 / fps)
    before: _Shown | None = None
    for picture in itertools.chain(content.pictures(), [None]):
        if before is not None and not before.end:
            yield before
        elif before is not None:
            until = before.end if picture is None else picture.start
            while number / fps + slack < until:
                number += 1
                decode.allow(path, number, (1, 1))
                yield before
        before = picture


def strip(frames: list[Image.Image], columns: int = 8, height: int = 64) -> Image.Image:
    """Some of the frames side by side, small, evenly chosen from the first to the last."""
    chosen = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    small = [frames[k].resize((max(1, frames[k].width * height // frames[k].height), height)) for k in chosen]
    made = Image.new("RGB", (sum(picture.width + 2 for picture in small), height))
    across = 0
    for picture in small:
        made.paste(picture, (across, 0))
        across += picture.width + 2
    return made


def _one_by_one(pictures: Iterator[_Shown], fps: float) -> Iterator[_Shown]:
    for number, picture in enumerate(pictures):
        yield _Shown(number / fps, (number + 1) / fps, picture.picture)


def _flattened(picture: Image.Image, background: str) -> Image.Image:
    """RGB; a picture may be transparent by its mode or by a colour of its palette."""
    if "A" in picture.mode or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, background)
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[_Content]:
    files = media.files_of(path)
    endings = {decode.format_of(file) for file in files}
    if len(files) > 1 and endings != {".png"}:
        raise MediaError(f"{shown(str(path))} holds files that are no PNG")
    ending = endings.pop()
    if ending in (".mp4", ".webm"):
        with _video(files[0], ending) as content:
            yield content
    elif len(files) == 1:
        with _animation(files[0], ending) as content:
            yield content
    else:
        mark = decode.mark_of(files[0])
        fps = (mark and mark.fps) or 0.0
        yield _Content(lambda: _stills(files, fps), fps)


@contextmanager
def _video(file: Path, ending: str) -> Iterator[_Content]:
    with decode.opened_video(file, ending) as container:
        if not container.streams.video:
            raise MediaError(f"{shown(str(file))} holds no picture")
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(decode.MAX_PICTURE)}
        begun: list[bool] = []

        def pictures() -> Iterator[_Shown]:
            if begun:
                container.seek(0)
            begun.append(True)
            return _decoded(file, container, stream)

        yield _Content(pictures, float(stream.average_rate or 0), bool(container.streams.audio))


def _decoded(file: Path, container: Any, stream: Any) -> Iterator[_Shown]:
    """The pictures of a video by its own times, which need not be evenly spaced."""
    rate = float(stream.average_rate or 0)
    each = 1 / rate if 0.01 <= rate <= 1000 else 0.0
    first: float | None = None
    before = 0.0
    for number, frame in enumerate(container.decode(stream)):
        decode.allow(file, number + 1 if number >= decode.MAX_FRAMES else 1, (frame.width, frame.height))
        time = frame.time
        if first is None:
            first = time or 0.0
        start = before if time is None else max(time - first, before)
        long = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else each
        before = start + long
        yield _Shown(start, before, lambda frame=frame: _upright(frame, stream))  # type: ignore[misc]


def _upright(frame: Any, stream: Any) -> Image.Image:
    """As a player shows it: turned as the camera was held, in square pixels."""
    pixels = frame.to_ndarray(format="rgba")
    turned = np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90))
    picture = Image.fromarray(np.ascontiguousarray(turned))
    aspect = frame.sample_aspect_ratio if hasattr(frame, "sample_aspect_ratio") else stream.sample_aspect_ratio
    ratio = float(aspect or 1)
    if not 0.1 <= ratio <= 10 or ratio == 1:
        return picture
    wide = turned.shape[:2] == pixels.shape[:2]
    size = (round(picture.width * ratio), picture.height) if wide else (picture.width, round(picture.height * ratio))
    return picture.resize(size)


@contextmanager
def _animation(file: Path, ending: str) -> Iterator[_Content]:
    """GIF, WebP, PNG that move, or a still picture."""
    if ending == ".gif":
        decode.allow_gif(file)
    with Image.open(file, formats=[ending[1:].upper()]) as image:
        count = getattr(image, "n_frames", 1)
        decode.allow(file, count, image.size)

        def pictures() -> Iterator[_Shown]:
            start = 0.0
            for number in range(count):
                image.seek(number)
                picture = image.copy()  # the next one takes its place
                long = image.info.get("duration", 0) / 1000
                end = start + (long if 0 < long < 1e6 else 0)
                yield _Shown(start, end, lambda picture=picture: picture)  # type: ignore[misc]
                start = end

        yield _Content(pictures)


def _stills(files: list[Path], fps: float) -> Iterator[_Shown]:
    decode.allow(files[0], len(files), (1, 1))
    for number, file in enumerate(files):
        with Image.open(file, formats=["PNG"]) as image:
            decode.allow(file, 1, image.size)
        start = number / fps if fps else 0.0
        yield _Shown(start, start + 1 / fps if fps else 0.0, lambda file=file: _still(file))  # type: ignore[misc]


def _still(file: Path) -> Image.Image:
    with Image.open(file, formats=["PNG"]) as image:
        picture: Image.Image = image.copy()
    return picture
