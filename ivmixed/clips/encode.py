"""A clip's frames as one file, or a file each, with a comment inside; what writes GIF, MP4, WebM, WebP and PNG.

Knows no host. MP4 and WebM need PyAV, the others Pillow. `write_whole` writes files whole or not at all, `save` goes on
to other places until one can be written to: a finished clip is not lost.
"""
from __future__ import annotations

import errno
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ..untrusted import Refusal, shown

Frames = NDArray[np.uint8]

Comment = str | Mapping[str, Any]
"""A text, or what becomes JSON: a format that stores equal frames once adds ``stored``, how many it holds."""

FASTEST = {".gif": 50.0, ".mp4": 240.0, ".webm": 240.0, ".webp": 240.0, ".png": 240.0}
"""The endings, and how many frames a second each may have. Browsers show a GIF frame of 0.01 s for 0.1 s."""

UNIT = {".gif": 10, ".webp": 1}
"""In how many milliseconds a format counts how long a frame is shown."""

EXIF, USER_COMMENT = 0x8769, 0x9286
"""Tags of Exif 2.3, tables 3 and 7."""
ASCII, UNICODE = b"ASCII\0\0\0", b"UNICODE\0"
"""How a user comment says its encoding, table 9."""


class MediaError(Refusal):
    """A file cannot be written or read. The message is one line for whoever makes the clip."""

    def __init__(self, problem: str):
        super().__init__(f"IV-mixed: {problem}.")


def can_write(ending: str) -> bool:
    """Whether what a format needs is installed."""
    return ending not in (".mp4", ".webm") or find_spec("av") is not None


def numbered(path: Path, start: int = 1) -> Iterator[Path]:
    """clip.png: clip-0001.png, clip-0002.png, ..."""
    return (path.with_name(f"{path.stem}-{k:04d}{path.suffix}") for k in itertools.count(start))


def end_of(count: int, fps: float, unit: int) -> int:
    """When ``count`` frames have been shown, in milliseconds; a multiple of ``unit``, without drift over the clip."""
    return unit * round(1000 * count / fps / unit)


def _delays(count: int, fps: float, unit: int) -> list[int]:
    """Milliseconds that each frame is shown."""
    ends = [end_of(k, fps, unit) for k in range(count + 1)]
    return [end - start for start, end in zip(ends, ends[1:])]


def _text(comment: Comment, frames: Iterable[bytes] = ()) -> str:
    """As it goes into a file: pure ASCII where it is JSON, which every format carries unharmed."""
    if isinstance(comment, str):
        return comment
    stored = sum(1 for _ in itertools.groupby(frames))
    return json.dumps({**comment, "stored": stored} if stored else comment)


def _write_gif(path: Path, frames: Iterator[Frames], fps: float, comment: Comment) -> list[Path]:
    clip = np.stack(list(frames))
    # One palette for all frames, and no dithering: whatever does not change in the clip does not flicker in the file.
    palette = Image.fromarray(clip.reshape(-1, *clip.shape[2:])).quantize(256, Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in clip]
    text = _text(comment, (picture.tobytes() for picture in pictures))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=_delays(len(clip), fps, UNIT[".gif"]),
                     loop=0, comment=text.encode())
    return [path]


def _write_webp(path: Path, frames: Iterator[Frames], fps: float, comment: Comment) -> list[Path]:
    pictures = [Image.fromarray(frame) for frame in frames]
    text = _text(comment, (picture.tobytes() for picture in pictures))
    delays = _delays(len(pictures), fps, UNIT[".webp"])
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays, loop=0, lossless=True,
                     exif=_exif(text))
    return [path]


def _exif(comment: str) -> bytes:
    """A user comment alone, of the type "undefined" that Exif 2.3 gives it: Pillow would write another.

    A TIFF header, a directory with one entry, which says where that of Exif is, and that with one entry.
    """
    text = ASCII + comment.encode("ascii") if comment.isascii() else UNICODE + comment.encode("utf-16-be")
    return (struct.pack(">2sHI", b"MM", 42, 8) + struct.pack(">HHHIII", 1, EXIF, 4, 1, 26, 0)
            + struct.pack(">HHHIII", 1, USER_COMMENT, 7, len(text), 44, 0) + text)


def write_png(
    path: Path, frames: Iterator[Frames], fps: float, comment: Comment, key: str = "Comment",
) -> list[Path]:
    """A file for every frame, see `numbered`; ``key`` is the comment's name in it."""
    text = PngImagePlugin.PngInfo()
    text.add_text(key, _text(comment))
    files = []
    for file, frame in zip(numbered(path), frames):
        Image.fromarray(frame).save(file, pnginfo=text)
        files.append(file)
    return files


def _write_video(path: Path, frames: Iterator[Frames], fps: float, comment: Comment) -> list[Path]:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    is_mp4 = path.suffix.lower() == ".mp4"
    first = next(frames)
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise MediaError(f"size = {width}x{height} is odd; {path.suffix} needs an even width and height")
    # The same frames make the same file: WebM would have a number drawn at random, and x264's macroblock tree reads
    # memory that nobody wrote where the width is no multiple of 128 (x264 of PyAV 18).
    with av.open(str(path), "w", options={"movflags": "faststart"} if is_mp4 else {"fflags": "bitexact"}) as container:
        container.metadata["comment"] = _text(comment)
        options = {"crf": "16", "mbtree": "0"} if is_mp4 else {
            "crf": "16", "b": "0", "row-mt": "1", "cpu-used": "2"}
        stream = container.add_stream("libx264" if is_mp4 else "libvpx-vp9",
                                      Fraction(fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame in itertools.chain([first], frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)))
        container.mux(stream.encode())
    return [path]


Writer = Callable[[Path, Iterator[Frames], float, Comment], list[Path]]
WRITERS: dict[str, Writer] = {
    ".gif": _write_gif, ".mp4": _write_video, ".webm": _write_video, ".webp": _write_webp, ".png": write_png,
}
"""By the ending: writes the frames, uint8 (height, width, 3), so many a second, and returns the files."""


def write_whole(path: Path, write: Callable[[Path], list[Path]]) -> list[Path]:
    """Writes one or several files whole or not at all, and returns them.

    ``write`` makes them under the name that it is given, or beside it, and returns them: a name in a hidden folder
    beside ``path``. They are moved from there at the end, so an error, Ctrl-C or the end of the process leaves older
    files as they were. Raises MediaError, whatever the disk or an encoder raises.
    """
    folder = os.path.abspath(path.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".ivmixed-", dir=folder, ignore_cleanup_errors=True) as hidden:
            files = write(Path(hidden, path.name))
            places = [place_of(path.with_name(file.name)) for file in files]
            for file in files:
                with file.open("rb+") as written:
                    os.fsync(written.fileno())  # some disks say only now that they are full
            for file, place in zip(files, places):
                os.replace(file, place)
    except MediaError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MediaError(f"{shown(str(path))} could not be written: {shown(reason)}") from error
    return [path.with_name(file.name) for file in files]


def place_of(path: Path) -> Path:
    """Where a file of that name goes: a link stays one, and the file that it leads to is replaced.

    Raises OSError where no file can be put there: a folder or a device is there, or a link to nothing.
    """
    if not path.exists() and path.is_symlink():
        raise FileNotFoundError(errno.ENOENT, f"{shown(path.name)} is a link to nothing")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{shown(path.name)} is a folder")
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, f"{shown(path.name)} is no ordinary file")
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.parent.stat().st_dev != path.parent.stat().st_dev or not os.access(place.parent, os.W_OK | os.X_OK):
        raise FileExistsError(errno.EEXIST, f"{shown(path.name)} leads to {shown(str(place))}, which is out of reach")
    return place


def save(paths: Iterable[Path], write: Callable[[Path], list[Path]]) -> tuple[list[Path], list[str]]:
    """What ``write`` makes of the first of ``paths`` that it can write to, else nothing; and why not to those before.

    ``write`` raises MediaError where it cannot.
    """
    problems: list[str] = []
    for path in paths:
        try:
            return write(path), problems
        except MediaError as error:
            problems.append(str(error).removeprefix("IV-mixed: "))
    return [], problems
