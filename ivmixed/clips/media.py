"""Clips to files and back, pictures of several clips, and the settings that travel with them.

A clip is a numpy array of uint8, (frames, height, width, 3), RGB. The ending of a file name says how it is stored:

    .gif    256 colours, one palette for the whole clip; loops for ever
    .mp4    H.264, colour at half resolution (4:2:0): plays everywhere
    .webm   VP9, colour at half resolution
    .webp   lossless; loops for ever
    .png    lossless, one file per frame: clip.png becomes clip-0001.png, clip-0002.png, ... side by side

Every file carries the settings as JSON in its own comment (GIF comment, PNG text ``Comment``, MP4 and WebM tag
``comment``, WebP EXIF user comment). A sidecar has them once more, as some web sites strip comments: clip.mp4 gets
clip.mp4.json. People hand clips on, so a comment has the names of files alone; the sidecar stays with the files and has
their paths.
"""
from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..untrusted import JsonError, parse_object, shown
from . import decode
from .decode import OWNER, Content, Mark, mark_of, reading
from .encode import FASTEST, WRITERS, Frames, MediaError, numbered, place_of, save, write_whole

log = logging.getLogger("ivmixed")

_DARK, _LIGHT, _GAP, _FONT = 24, 235, 8, 14  # grey levels; pixels


def as_frames(clip: Tensor) -> Frames:
    """A tensor on any device as a clip: uint8 (frames, height, width, 3) as it is, or float (frames, 3, height, width)
    from 0 to 1, rounded, values outside clipped."""
    if clip.dtype != torch.uint8:
        clip = clip.detach().float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    frames: Frames = clip.contiguous().cpu().numpy()
    return frames


# --- writing

def check_out(path: str | Path, fps: float, settings: Mapping[str, Any] | None = None) -> None:
    """Refuses what `write_clip` could not write, before anything is computed. ``fps``: frames a second.

    Raises MediaError: unknown ending, a name that is too long or no text, folder missing or not writable, something
    there that is no file, fps out of range, ``settings`` that `read_settings` would refuse.
    """
    path = Path(path)
    said = f"out = {shown(str(path))!r}"
    fastest = FASTEST.get(path.suffix.lower())
    if fastest is None:
        raise MediaError(f"{said} has an unknown ending; allowed: {', '.join(FASTEST)}")
    if not 0.1 <= fps <= fastest:
        raise MediaError(f"fps = {fps!r} is not allowed for {path.suffix}; allowed: a number from 0.1 to {fastest:g}")
    if re.search("[\0-\x1f\x7f\ud800-\udfff]", str(path)):
        raise MediaError(f"{said} holds what is no text; choose another name")
    try:
        if path.is_dir():
            raise MediaError(f"{said} is a folder; give the name of a file in it")
        if not path.parent.is_dir():
            raise MediaError(f"{said} is in a folder that does not exist; make {shown(str(path.parent))!r} first")
        files = [next(numbered(path)) if path.suffix.lower() == ".png" else path, _sidecar(path)]
        for file in files:
            place_of(file)
        with tempfile.TemporaryDirectory(prefix=".ivmixed-", dir=path.parent) as folder:
            for file in files:
                Path(folder, file.name).touch()
    except OSError as error:
        raise MediaError(f"{said} {_unwritable(error)}") from None
    if settings is not None:
        _marks(settings, {})


def _unwritable(error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return "is too long, or its sidecar's name with .json after it is; choose a shorter name"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"is in a folder that you may not write to ({error.strerror}); choose another one"
    return f"cannot be written: {error.strerror}; choose another name"


def _marks(settings: Mapping[str, Any], more: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What goes into a clip, and into its sidecar. Raises MediaError where it could not be read again, TypeError: no
    JSON."""
    try:
        whole = {OWNER: _texts(settings, _valid), **more}
        mark = {OWNER: without_folders(whole[OWNER]), **more}
        readable = json.dumps(whole, ensure_ascii=False, indent=2) + "\n"
        for text in (json.dumps(mark), readable):
            parse_object(text)
    except (JsonError, RecursionError, ValueError) as error:
        raise MediaError(f"the settings cannot be kept in the clip: what they become {shown(str(error))}") from None
    return mark, readable


def without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the comment of a clip has them: of absolute paths the file's name alone."""
    changed: dict[str, Any] = _texts(settings, _name_only)
    return changed


def _texts(value: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """A value with all texts in it changed; ``change`` takes a text and the key that it stands under."""
    if isinstance(value, Mapping):
        return {change(name, "prompt") if isinstance(name, str) else name: _texts(inner, change, str(name))
                for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_texts(inner, change, key) for inner in value]
    return change(value, key) if isinstance(value, str) else value


def _valid(text: str, key: str) -> str:
    """With half surrogate pairs, which are no characters, replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _name_only(text: str, key: str) -> str:
    """Without the folders of the user's disk: a path becomes the name of its file. Prompts are no paths."""
    is_path = "prompt" not in key and (
        PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~"))
    return PureWindowsPath(text).name if is_path else text  # which knows both kinds of slashes


def write_clip(
    path: str | Path, frames: Frames | Tensor | Sequence[Frames], fps: float, settings: Mapping[str, Any],
) -> list[Path]:
    """Writes a clip and its sidecar, whole or not at all. Returns the files: the clip's in order, the sidecar last.

    ``frames``: a clip, or a sequence of its frames, as arrays or tensors. ``fps``: frames a second; a GIF
    counts in 1/100 s, so its delays vary (8 fps: 12, 13, 12, ...) and the clip keeps its length. ``settings``: what
    JSON can hold; of absolute paths in them the clip has the file's name, the sidecar all. Half surrogate pairs, which
    are no characters, are replaced. All is written to a hidden folder beside ``path`` and moved into place at the end:
    an error or Ctrl-C leaves nothing behind and older files as they were. Surplus frames of an older clip.png are
    removed.

    Raises MediaError (as `check_out`; also odd sizes for MP4 and WebM, and a full disk), ValueError for frames of
    another shape or type or none, TypeError for settings that are no JSON.
    """
    path = Path(path)
    check_out(path, fps)
    more = {"fps": float(fps), "frames": len(frames)}
    mark, readable = _marks(settings, more)
    try:
        clip = list(_checked(frames))
    except OSError as error:  # frames may lie on a disk
        raise MediaError(f"{shown(str(path))} could not be written: {error.strerror or error}") from error

    def write(file: Path) -> list[Path]:
        files = WRITERS[path.suffix.lower()](file, iter(clip), fps, mark)
        _sidecar(file).write_text(readable, "utf-8")
        return [*files, _sidecar(file)]

    files = write_whole(path, write)
    if path.suffix.lower() == ".png":
        for surplus in _frames_of(path)[len(clip):]:
            if mark_of(surplus) is not None:
                surplus.unlink()
    return files


def save_clip(
    path: str | Path, frames: Frames | Tensor | Sequence[Frames], fps: float, settings: Mapping[str, Any],
) -> tuple[list[Path], list[str]]:
    """`write_clip`, for a clip that took long to make: where it cannot be written, as PNG frames, else in the current
    folder, else in a new one among the temporary files. Returns the files, and in lines for the user why not where it
    should be, and where it is; none where all is well.

    Raises MediaError where nothing of this can be written to, and what `write_clip` raises for what is no clip.
    """
    path = Path(path)
    files, problems = save(_places(path), lambda place: write_clip(place, frames, fps, settings))
    if not files:
        raise MediaError(f"the clip could not be saved anywhere: {problems[-1].rstrip('.')}")
    return files, [*problems, f"the clip is in {files[0]} instead"] if problems else []


def _places(path: Path) -> Iterator[Path]:
    """Where a clip may go: where it should, as frames beside, and the same in other folders under names that are free.
    """
    def formats(first: Path) -> Iterator[Path]:
        yield first
        if first.suffix.lower() != ".png":
            yield _free(first.with_suffix(".png"))

    yield from formats(path)
    try:
        if Path.cwd() != path.parent.absolute():
            yield from formats(_free(Path.cwd() / path.name))
    except OSError:  # the current folder is gone
        pass
    try:
        folder = tempfile.mkdtemp(prefix="ivmixed-saved-")
    except OSError:  # there is none for temporary files
        return
    yield from formats(Path(folder, path.name))
    os.rmdir(folder)


def _free(path: Path) -> Path:
    """The name, or the first of clip-2.gif, clip-3.gif, ... of which there is no file."""
    names = (path if k == 1 else path.with_stem(f"{path.stem}-{k}") for k in count(1))
    return next(name for name in names if not any(file.exists() for file in (name, _sidecar(name), *_frames_of(name))))


def write_picture(path: Path, picture: Image.Image) -> None:
    """Writes a picture whole or not at all. Raises MediaError."""
    def write(file: Path) -> list[Path]:
        picture.save(file)
        return [file]

    write_whole(path, write)


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
    frames is one clip, in the order of the numbers in their names. A frame that a GIF or WebP stores once and shows for
    longer comes back as often as it was written. Frames and times are the file's, whatever its comment says; the log
    says where they disagree. Raises MediaError, also for more than `clipreader.MAX_PIXELS`.
    """
    content = read(path)
    for note in content.notes:
        log.warning("%s: %s", shown(str(path)), note)
    return content.frames, content.fps


def read(path: str | Path) -> Content:
    """`read_clip`, with what the log would say as ``notes``."""
    path = Path(path)
    files = files_of(path)
    content = decode.read(files, path)
    missing = _missing(files)
    return content._replace(notes=(*content.notes, *missing))


def _missing(files: Sequence[Path]) -> list[str]:
    """A note on gaps in the numbers of PNG frames."""
    numbers = [_number(file) for file in files] if len(files) > 1 else []
    gap = next((k for k, (one, other) in enumerate(zip(numbers, numbers[1:])) if other[-1] != one[-1] + 1), None)
    if gap is None:
        return []
    return [f"there is nothing between {shown(files[gap].name, 60)} and {shown(files[gap + 1].name, 60)}: frames are "
            f"missing"]


def clips_at(path: str | Path) -> list[Path]:
    """What `read_clip` can read at ``path``: the clips in a folder, by name, or ``path`` itself where it is a clip.

    A folder that holds PNG files alone is a clip of its own; beside other clips they are left out. Only names are
    looked at. Raises MediaError.
    """
    path = Path(path)
    with reading(path):
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in FASTEST) if path.is_dir() else []
    clips = [file for file in inside if file.suffix.lower() != ".png"] or [path]
    for clip in clips:
        files_of(clip)
    return clips


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that `write_clip` put into a clip and its sidecar; ``path`` is either of them.

    A sidecar that says the same as the clip has the paths of files besides their names, so it is taken. Where it says
    something else it belongs to another clip: the log says so, and the clip wins. Where the clip says nothing the
    sidecar serves; the log says where it does not fit. Raises MediaError where both are silent.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        files_of(path)
        found = mark_of(path)
        assert found is not None
        return found.settings
    try:
        first = files_of(path)[0]
    except MediaError:
        with reading(path):
            if not _sidecar(path).is_file():
                raise
        first = path  # the clip is gone, its settings are there
    own, beside, sidecar = mark_of(first), None, _sidecar_of(path, first)
    try:
        beside = mark_of(sidecar)
    except MediaError as error:
        if own is None:
            raise
        log.warning("%s", str(error).removeprefix("IV-mixed: "))
    if own is None and beside is None:
        problem = decode.why_not(first)
        said = f" (its comment {problem})" if problem else ""
        raise MediaError(f"{shown(str(path))} holds no settings of IV-mixed{said}, and there is no "
                         f"{shown(sidecar.name)} beside it")
    if own is None and beside is not None:
        _check_fit(path, sidecar, beside)
    if own is not None and beside is not None and (
            _texts(beside.settings, _name_only) != _texts(own.settings, _name_only)):
        log.warning("%s is of another clip than %s: the settings in the clip itself are taken", shown(str(sidecar)),
                    shown(path.name))
        return own.settings
    return (beside or own).settings  # type: ignore[union-attr]


def _check_fit(path: Path, sidecar: Path, mark: Mark) -> None:
    """Says where a sidecar does not fit the frames of a clip that says nothing itself."""
    try:
        frames, fps, _ = read(path)
    except MediaError:  # it is gone or damaged
        return
    if problem := decode.disagreement(mark, len(frames), fps or None):
        log.warning("%s may be of another clip than %s: it %s", shown(str(sidecar)), shown(path.name), problem)


def _sidecar_of(path: Path, first: Path) -> Path:
    """The sidecar of a clip, also of one that is named by its folder of frames or by one of them."""
    for file in (path, first.with_name(re.sub(r"-\d+$", "", first.stem) + first.suffix)):
        if _sidecar(file).is_file():
            return _sidecar(file)
    return _sidecar(path)


def files_of(path: Path) -> list[Path]:
    """The files of a clip in order, or the sidecar itself. Raises MediaError where there are none."""
    with reading(path):
        if path.is_dir():
            return _frames_in(path)
        ending = path.suffix.lower()
        if ending not in (*FASTEST, ".json"):
            raise MediaError(f"{shown(str(path))} has an unknown ending; allowed: {', '.join(FASTEST)}")
        files = _frames_of(path) if ending == ".png" else []
        if not files and not path.is_file():
            raise MediaError(f"there is no file {shown(str(path))}")
        return files or [path]


def _frames_of(path: Path) -> list[Path]:
    """The files that `numbered` may have named, in order, also where some are missing."""
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        return []
    name = re.compile(re.escape(path.stem) + r"-([0-9]{4,9})" + re.escape(path.suffix))
    return sorted((file for file in path.parent.iterdir() if name.fullmatch(file.name) and file.is_file()), key=_number)


def _frames_in(folder: Path) -> list[Path]:
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() == ".png"), key=_number)
    names = {re.sub(r"\d+", "", file.stem) for file in files}
    if len(names) != 1:
        raise MediaError(f"{shown(str(folder))} holds {'PNG frames of more than one clip' if names else 'no clip'}; "
                         f"allowed: a file ({', '.join(FASTEST)}), or a folder of the PNG frames of one clip")
    return files


def _number(file: Path) -> list[int]:
    """All numbers in its name: frame 10 comes after frame 9."""
    return [int(digits) for digits in re.findall(r"\d+", file.stem)]


def _sidecar(path: Path) -> Path:
    return path.parent / (path.name + ".json")


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
