"""A clip's frames as one file, or a file each, with a comment inside; what writes GIF, MP4, WebM, WebP and PNG.

Knows no host. MP4 and WebM need PyAV, the others Pillow.
"""
from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from .untrusted import Refusal

Frames = NDArray[np.uint8]

FASTEST = {".gif": 50.0, ".mp4": 240.0, ".webm": 240.0, ".webp": 240.0, ".png": 240.0}
"""The endings, and how many frames a second each may have. Browsers show a GIF frame of 0.01 s for 0.1 s."""

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


def _delays(count: int, fps: float, unit: int) -> list[int]:
    """Milliseconds that each frame is shown, in whole ``unit`` milliseconds, without drift over the clip."""
    ends = [unit * round(1000 * k / fps / unit) for k in range(count + 1)]
    return [end - start for start, end in zip(ends, ends[1:])]


def _write_gif(path: Path, frames: Iterator[Frames], fps: float, comment: str) -> list[Path]:
    clip = np.stack(list(frames))
    # One palette for all frames, and no dithering: whatever does not change in the clip does not flicker in the file.
    palette = Image.fromarray(clip.reshape(-1, *clip.shape[2:])).quantize(256, Image.Quantize.MEDIANCUT)
    first, *rest = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in clip]
    first.save(path, save_all=True, append_images=rest, duration=_delays(len(clip), fps, unit=10), loop=0,
               comment=comment.encode())
    return [path]


def _write_webp(path: Path, frames: Iterator[Frames], fps: float, comment: str) -> list[Path]:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=_delays(1 + len(rest), fps, unit=1), loop=0,
               lossless=True, exif=_exif(comment))
    return [path]


def _exif(comment: str) -> bytes:
    """A user comment alone, of the type "undefined" that Exif 2.3 gives it: Pillow would write another.

    A TIFF header, a directory with one entry, which says where that of Exif is, and that with one entry.
    """
    text = ASCII + comment.encode("ascii") if comment.isascii() else UNICODE + comment.encode("utf-16-be")
    return (struct.pack(">2sHI", b"MM", 42, 8) + struct.pack(">HHHIII", 1, EXIF, 4, 1, 26, 0)
            + struct.pack(">HHHIII", 1, USER_COMMENT, 7, len(text), 44, 0) + text)


def write_png(
    path: Path, frames: Iterator[Frames], fps: float, comment: str, key: str = "Comment",
) -> list[Path]:
    """A file for every frame, see `numbered`; ``key`` is the comment's name in it."""
    text = PngImagePlugin.PngInfo()
    text.add_text(key, comment)
    files = []
    for file, frame in zip(numbered(path), frames):
        Image.fromarray(frame).save(file, pnginfo=text)
        files.append(file)
    return files


def _write_video(path: Path, frames: Iterator[Frames], fps: float, comment: str) -> list[Path]:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    is_mp4 = path.suffix.lower() == ".mp4"
    first = next(frames)
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise MediaError(f"size = {width}x{height} is odd; {path.suffix} needs an even width and height")
    with av.open(str(path), "w", options={"movflags": "faststart"} if is_mp4 else {}) as container:
        container.metadata["comment"] = comment
        options = {"crf": "16"} if is_mp4 else {"crf": "16", "b": "0", "row-mt": "1", "cpu-used": "2"}
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


Writer = Callable[[Path, Iterator[Frames], float, str], list[Path]]
WRITERS: dict[str, Writer] = {
    ".gif": _write_gif, ".mp4": _write_video, ".webm": _write_video, ".webp": _write_webp, ".png": write_png,
}
"""By the ending: writes the frames, uint8 (height, width, 3), so many a second, and returns the files."""
