"""What the file of a clip holds: frames, times, and the mark that `media.write_clip` left in it.

Files come from strangers. What a file is, its first bytes say, and nothing else opens it; sizes are looked at before
anything is decoded (`MAX_PIXELS`, `MAX_PICTURE`, `MAX_FRAMES`); whatever Pillow, PyAV or the disk raise becomes a
MediaError. The frames and times of the file are the truth: its mark says only which of the frames that are shown for
longer stand for several, and only where it fits the file's own times.
"""
from __future__ import annotations

import io
import math
import os
import re
import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..untrusted import MAX_BYTES, JsonError, parse_object, shown
from .encode import ASCII, EXIF, FASTEST, UNIT, USER_COMMENT, Frames, MediaError, end_of

MAX_PIXELS = 1 << 29
"""Pixels of all frames of a clip: 1.5 GiB in memory, such as 2048 frames of 512x512."""
MAX_PICTURE = 1 << 26
"""Pixels of one frame, such as 8192x8192."""
MAX_FRAMES = 10_000

OWNER = "ivmixed"
"""The key in the JSON that says whose it is."""

SIGNATURES = {
    ".gif": rb"GIF8", ".png": rb"\x89PNG\r\n\x1a\n", ".webp": rb"RIFF....WEBP", ".webm": rb"\x1a\x45\xdf\xa3",
    ".mp4": rb"....(?:ftyp|moov|mdat|free|skip|wide)",
}
"""How a file of each format begins."""
_SHORTEST = 1000 / 60  # milliseconds of a frame where nothing says it
_STRAY = 1000  # bytes between the blocks of a GIF that belong to none: some programs leave a few


class Mark(NamedTuple):
    """What `media.write_clip` says in a clip: None where it says nothing or what cannot be."""

    settings: dict[str, Any]
    fps: float | None
    frames: int | None
    stored: int | None
    """How many frames the format holds, where it stores equal ones once."""
    wrong: str
    """What cannot be."""


class Content(NamedTuple):
    """A clip from files."""

    frames: Frames
    fps: float
    """Frames a second, 0 where nothing says."""
    notes: tuple[str, ...]
    """Where the files and their marks disagree."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The border around whatever reads a clip from ``path``: what goes wrong in it is a MediaError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow on damaged metadata
            yield
    except (MediaError, JsonError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except MemoryError as error:
        raise MediaError(f"{shown(str(path))} needs more memory than there is") from error
    except Exception as error:
        av = sys.modules.get("av")  # its errors are the disk's by their class
        if isinstance(error, OSError) and error.strerror and not (av and isinstance(error, av.FFmpegError)):
            raise MediaError(f"{shown(str(path))} cannot be read: {error.strerror}") from error
        raise MediaError(f"{shown(str(path))} cannot be read as a clip; it may be damaged, or of another format than "
                         f"{', '.join(SIGNATURES)}") from error


def _too_large(path: Path) -> MediaError:
    return MediaError(f"{shown(str(path))} is too large; allowed: {MAX_PICTURE} pixels in a frame, {MAX_PIXELS} in all "
                      f"frames, {MAX_FRAMES} frames")


def allow(file: Path, frames: int, size: tuple[int, int]) -> None:
    """Refuses what is too large to be decoded."""
    pixels = size[0] * size[1]
    if pixels > MAX_PICTURE or frames > MAX_FRAMES or frames * pixels > MAX_PIXELS:
        raise _too_large(file)


def ending_of(head: bytes) -> str:
    """The ending that a file should have which begins with ``head``, 16 bytes. Raises ValueError for one of no clip."""
    ending = next((ending for ending, begin in SIGNATURES.items() if re.match(begin, head, re.DOTALL)), None)
    if ending is None:
        raise ValueError(head)
    return ending


def format_of(file: Path) -> str:
    """The ending that a file should have, by its first bytes. Raises ValueError for one of no clip."""
    with file.open("rb") as opened:
        ending = ending_of(opened.read(16))
    if ending not in (".mp4", ".webm") and file.stat().st_size > 3 * MAX_PIXELS:  # larger than the pixels themselves
        raise _too_large(file)
    return ending


# --- frames and times

def read(files: Sequence[Path], path: Path) -> Content:
    """The clip in ``files``, one or a PNG file for each frame; ``path`` is its name in messages. Raises MediaError."""
    with reading(path):
        formats = {format_of(file) for file in files}
        if len(files) > 1 and formats != {".png"}:
            raise MediaError(f"{shown(str(path))} holds files that are no PNG")
        ending = formats.pop()
        mark = mark_of(files[0])
        if ending in (".mp4", ".webm"):
            frames, fps = _video(files[0], ending)
            return Content(frames, fps, _notes(mark, len(frames), fps))
        if ending == ".png" and not (len(files) == 1 and _is_animated(files[0])):
            frames = _pictures(files)
            fps = (mark and mark.fps) or 0.0
            notes = _notes(mark, len(frames) if len(files) > 1 else None, fps)
            return Content(frames, fps, notes + _strangers(files, mark))
        frames, durations = _animation(files[0], ending)
        counts, fps = times(durations, mark, UNIT.get(ending, 1))
        shape = frames.shape
        if sum(counts) > MAX_FRAMES or sum(counts) * shape[1] * shape[2] > MAX_PIXELS:
            counts, fps = [1] * len(durations), 1000 * len(durations) / sum(durations)
        if max(counts) > 1:
            frames = frames.repeat(counts, axis=0)
        return Content(frames, fps, _notes(mark, len(frames), fps))


def _notes(mark: Mark | None, frames: int | None, fps: float) -> tuple[str, ...]:
    if mark is None:
        return ()
    problem = disagreement(mark, frames, fps)
    return (*([f"its comment {mark.wrong}"] if mark.wrong else []),
            *([f"its comment {problem}: it was changed, and is read as it is"] if problem else []))


def disagreement(mark: Mark, frames: int | None, fps: float | None) -> str:
    """What a mark says and a clip of so many frames, so many a second, is not; None is not compared."""
    said, found = [], []
    if mark.frames is not None and frames is not None and mark.frames != frames:
        said.append(_frames(mark.frames))
        found.append(_frames(frames))
    if mark.fps is not None and fps is not None and not _alike(mark.fps, fps, frames or 1):
        said.append(f"{mark.fps:g} frames a second")
        found.append(f"{fps:.3g} frames a second" if fps else "no times")
    return f"says {' and '.join(said)}, but the file has {' and '.join(found)}" if said else ""


def _alike(fps: float, other: float, frames: int) -> bool:
    """Rates that differ no more than the times of a GIF are rounded, over so many frames."""
    if other <= 0:
        return False
    return math.isclose(fps, other, rel_tol=0.01) or abs(1000 * frames / fps - 1000 * frames / other) <= UNIT[".gif"]


def _frames(number: int) -> str:
    return "1 frame" if number == 1 else f"{number} frames"


def _strangers(files: Sequence[Path], mark: Mark | None) -> tuple[str, ...]:
    """PNG frames whose marks are not that of the first."""
    others = [file.name for file in files[1:] if mark_of(file) != mark]
    if not others:
        return ()
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (f"the comment of {shown(others[0], 60)}{more} is not that of {shown(files[0].name, 60)}: frames of several "
            f"clips may be mixed",)


def times(durations: Sequence[float], mark: Mark | None, unit: int) -> tuple[list[int], float]:
    """How often each frame of an animation comes, and frames a second, 0 where nothing says.

    ``durations``: milliseconds that each is shown, rounded to ``unit``. A frame that is shown for several frame times
    stands for several equal ones, which the format stores once. Where the mark fits all of the times it is right;
    else the frame time is the mark's or one that the times themselves have in common; where there is none each frame
    counts once.
    """
    ends = list(accumulate(durations))
    if mark is not None and mark.fps and mark.frames and (counts := _fitting(ends, mark, unit)):
        return counts, mark.fps
    if min(durations) <= 0:
        return [1] * len(durations), 1000 * len(durations) / ends[-1] if ends[-1] > 0 else 0.0
    if mark is not None and mark.fps:
        counts = _counts(durations, 1000 / mark.fps)
        if _fits(counts, ends, 1000 / mark.fps, unit):
            common = math.gcd(*counts)  # slowed down by a whole factor
            return [count // common for count in counts], mark.fps / common
    for parts in range(1, 5):
        period = min(durations) / parts
        if period < _SHORTEST:
            break
        for _ in range(2):  # the shortest is rounded, their mean is exact
            counts = _counts(durations, period)
            period = ends[-1] / sum(counts)
        if _fits(counts, ends, period, unit):
            return counts, 1000 / period
    return [1] * len(durations), 1000 * len(durations) / ends[-1]


def _fitting(ends: Sequence[float], mark: Mark, unit: int) -> list[int]:
    """The counts by a mark whose frames, rate and times are exactly those of the file; else none."""
    frames, fps = mark.frames or 0, mark.fps or 0.0
    if mark.stored == 1 == len(ends) and ends[-1] == 0:  # WebP stores a clip that stands still as a picture
        return [frames]
    if mark.stored not in (None, len(ends)) or ends[-1] != end_of(frames, fps, unit):
        return []
    shown_by = [round(end * fps / 1000) for end in ends]
    if any(end_of(k, fps, unit) != end for k, end in zip(shown_by, ends)):
        return []
    counts = [after - before for before, after in zip([0, *shown_by], shown_by)]
    return counts if min(counts) > 0 else []


def _counts(durations: Sequence[float], period: float) -> list[int]:
    return [max(1, round(duration / period)) for duration in durations]


def _fits(counts: Sequence[int], ends: Sequence[float], period: float, unit: int) -> bool:
    """Whether each frame ends when it should; both ends of a cut clip are rounded, half a frame is no rounding."""
    within = (unit if period >= 4 * unit else unit / 2) + 1e-6
    return period >= 2 * unit and all(
        abs(end - count * period) <= within for count, end in zip(accumulate(counts), ends))


def _video(file: Path, ending: str) -> tuple[Frames, float]:
    pictures: list[Frames] = []
    with opened_video(file, ending) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(MAX_PICTURE)}
        for frame in container.decode(stream):
            allow(file, len(pictures) + 1, (frame.width, frame.height))
            pictures.append(frame.to_ndarray(format="rgb24"))
        fps = float(stream.average_rate or 0)
    return np.stack(pictures), fps if 0.01 <= fps <= 1000 else 0.0


def opened_video(file: Path, ending: str) -> Any:
    """By this format alone: others are lists of addresses, which FFmpeg would follow. Raises MediaError."""
    try:
        import av
    except ImportError:
        raise MediaError(f"{shown(str(file))} is a video, which needs the Python package av: pip install av") from None
    # what is no UTF-8 in its texts; since version 19 it knows no other way
    errors = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
    return av.open(os.path.abspath(file), format=ending[1:], options={"protocol_whitelist": "file"}, **errors)


def _pictures(files: Sequence[Path]) -> Frames:
    sizes = []
    for file in files:
        with Image.open(file, formats=["PNG"]) as image:
            sizes.append(image.size)
            allow(file, len(files), image.size)
    if len(set(sizes)) > 1:
        other = next(k for k, size in enumerate(sizes) if size != sizes[0])
        raise MediaError(f"{shown(str(files[0]))} has {sizes[0][0]}x{sizes[0][1]} pixels, {shown(files[other].name)} "
                         f"has {sizes[other][0]}x{sizes[other][1]}; the frames of a clip are of one size")
    frames = np.empty((len(files), sizes[0][1], sizes[0][0], 3), np.uint8)
    for k, file in enumerate(files):
        with Image.open(file, formats=["PNG"]) as image:
            frames[k] = np.asarray(image.convert("RGB"))
    return frames


def _is_animated(file: Path) -> bool:
    with Image.open(file, formats=["PNG"]) as image:
        return bool(getattr(image, "is_animated", False))


def _animation(file: Path, ending: str) -> tuple[Frames, list[float]]:
    """All frames, and milliseconds that each is shown."""
    if ending == ".gif":
        allow_gif(file)
    with Image.open(file, formats=[ending[1:].upper()]) as image:
        count, size = getattr(image, "n_frames", 1), image.size
        allow(file, count, size)
        frames = np.empty((count, size[1], size[0], 3), np.uint8)
        durations: list[float] = []
        for k in range(count):
            image.seek(k)
            if image.size != size:
                raise ValueError("a frame of another size")
            frames[k] = np.asarray(image.convert("RGB"))
            durations.append(image.info.get("duration", 0))
    return frames, [duration if math.isfinite(duration) else 0.0 for duration in durations]


def allow_gif(file: Path) -> None:
    """Refuses a GIF that is too large to be decoded. Raises ValueError, struct.error for one that is damaged."""
    count, canvas, _ = _walk(file)
    allow(file, count, canvas)


def _walk(file: Path) -> tuple[int, tuple[int, int], list[bytes]]:
    """A GIF's number of frames, its size with all frames in it, and its comments, without decoding anything.

    Pillow takes quadratic time for a long comment, so it is refused here. The blocks are those of GIF89a. Raises
    ValueError, struct.error.
    """
    data = file.read_bytes()
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, count, stray = 13 + _palette(flags), 0, 0
    comments: list[bytes] = []
    left_for_comments = MAX_BYTES
    while at < len(data) and data[at:at + 1] != b";" and count <= MAX_FRAMES:
        if data[at:at + 1] == b"!":
            start, at = at + 2, _past(data, at + 2)
            if data[start - 1] == 0xFE:
                comments.append(_joined(data, start))
                left_for_comments -= len(comments[-1])
        elif data[at:at + 1] == b",":
            left, top, across, down, flags = struct.unpack_from("<4HB", data, at + 1)
            width, height, count = max(width, left + across), max(height, top + down), count + 1
            at = _past(data, at + 11 + _palette(flags))
        else:
            at, stray = at + 1, stray + 1
        if stray > _STRAY or left_for_comments < 0:
            raise ValueError("a comment that is too long, or bytes of no block")
    return count, (width, height), comments


def _palette(flags: int) -> int:
    return 3 * 2 << (flags & 7) if flags & 0x80 else 0


def _past(data: bytes, at: int) -> int:
    """Where the blocks that begin there end, by their lengths; the last has none."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _joined(data: bytes, at: int) -> bytes:
    text = io.BytesIO()
    while at < len(data) and data[at] and text.tell() <= MAX_BYTES:
        text.write(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    return text.getvalue()


# --- marks

def mark_of(file: Path) -> Mark | None:
    """What `media.write_clip` wrote into a clip or a sidecar; None where it says nothing, or cannot be read.

    Raises MediaError for a sidecar that is there and holds no such thing.
    """
    try:
        with reading(file):
            comment = _comment(file)
    except MediaError:
        if file.suffix.lower() == ".json" and file.is_file():
            raise
        return None
    try:
        values = _parsed(comment)
    except JsonError as error:
        if file.suffix.lower() == ".json":
            raise MediaError(f"{shown(str(file))} {error}") from None
        return None
    fps, frames = _number(values.get("fps"), 0.1, max(FASTEST.values())), _number(values.get("frames"), 1, MAX_FRAMES)
    frames = int(frames) if isinstance(frames, int) else None
    wrong = [f"{name} = {shown(repr(values[name]), 40)}" for name, value in (("fps", fps), ("frames", frames))
             if name in values and value is None]
    stored = _number(values.get("stored"), 1, MAX_FRAMES)
    return Mark(values[OWNER], fps, frames, int(stored) if stored else None,
                f"says {' and '.join(wrong)}, which cannot be" if wrong else "")


def _parsed(comment: str | bytes) -> dict[str, Any]:
    """Raises JsonError."""
    values = parse_object(comment)
    if not isinstance(values.get(OWNER), dict):
        raise JsonError("holds no settings of IV-mixed")
    return values


def why_not(file: Path) -> str:
    """Why a comment that looks like a mark is none."""
    try:
        with reading(file):
            comment = _comment(file)
            if f'"{OWNER}"' in (comment if isinstance(comment, str) else comment.decode("latin-1")):
                _parsed(comment)
    except JsonError as error:
        return str(error)
    except MediaError:
        pass
    return ""


def _number(value: Any, low: float, high: float) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and low <= value <= high else None


def _comment(file: Path) -> str | bytes:
    """The comment in a file, "" where it has none. Raises whatever reading a damaged file raises."""
    if file.suffix.lower() == ".json":
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    ending = format_of(file)
    if ending == ".gif":
        comments = _walk(file)[2]
        return next((comment for comment in comments if b'"ivmixed"' in comment), b"")
    if ending in (".mp4", ".webm"):
        with opened_video(file, ending) as container:
            comment = {key.lower(): text for key, text in container.metadata.items()}.get("comment", "")
            return str(comment.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    with Image.open(file, formats=[ending[1:].upper()]) as image:
        if ending == ".png":
            return str(image.info.get("Comment", ""))
        comment = image.getexif().get_ifd(EXIF).get(USER_COMMENT, b"")
        return comment.removeprefix(ASCII) if isinstance(comment, bytes) else str(comment)
