"""The frames of a request with built-in motion become one clip: in files, in the gallery, in the API's answer."""
from __future__ import annotations

import base64
import datetime
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules import images, shared

from ...clips.encode import WRITERS, Frames, MediaError, can_write, write_png, write_whole
from ...motion import FORMATS
from ...options import OptionError
from ...untrusted import shown
from .. import MOTION, log, request, scratch, selectable
from .generation import BuiltinClip

MOVING = {".gif", ".webp"}
"""What browsers show as a picture."""
PLAYED = (".mp4", ".webm", ".webp", ".gif")
"""What they play, the best first."""

PROBLEM = f"{MOTION} problem"
"""The key under which the API's answer says what could not be written, in ``extra_generation_params`` of its info."""

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


def finish(clip: BuiltinClip, result: Any) -> None:
    """Writes what a request made, and puts it into the host's ``result``, with what went wrong."""
    first = result.index_of_first_image
    texts = result.infotexts[first:]
    made = result.images[first:]
    frames = made[::max(1, len(made) // max(1, len(texts)))]  # inpainting may put masks between them
    images_shown: list[Any] = []
    infotexts: list[str] = []
    problems: list[str] = []
    for start in range(0, len(frames) - clip.frames + 1, clip.frames):
        part = frames[start:start + clip.frames]
        with _places(clip) as places:
            files = _save(places, clip, part, result.all_seeds[start], texts[start], problems)
            clip.files += files
            try:
                images_shown += _shown(clip.p, files, part, clip.options.fps, texts[start])
            except OSError as error:
                problems.append(f"the clip cannot be read again ({shown(str(error))})")
                images_shown += part
        infotexts += [texts[start]] * (len(images_shown) - len(infotexts))
    if images_shown:
        result.images, result.infotexts, result.index_of_first_image = images_shown, infotexts, 0
    if problems:
        lines = [f"{MOTION}: {problem}" for problem in dict.fromkeys(problems)]
        for line in lines:
            log.warning(line)
        if (run := request.of(clip.p).script_run) is not None:
            run.problems += lines
        result.comments += "".join(f"\n{line}" for line in lines)
        result.extra_generation_params = {**clip.p.extra_generation_params, PROBLEM: "; ".join(lines)}


def keep(p: Any, batch: Any) -> None:
    """Keeps the frames of a request that wants them, as uint8 (height, width, 3); the host's ``batch`` has them."""
    kept = request.of(p).frames
    if kept is not None:
        kept += [(255 * picture.permute(1, 2, 0).cpu().float().numpy()).astype(np.uint8) for picture in batch.images]


def to_play(files: Sequence[Path], frames: Sequence[Frames], fps: float) -> Path | None:
    """The file that a page plays: a video, else a moving picture, else a GIF for the page alone, if that can be made.
    """
    found = next((file for suffix in PLAYED for file in files if file.suffix == suffix), None)
    if found is None:
        try:
            path = scratch.folder() / "clip.gif"
            found, = write_whole(path, lambda file: WRITERS[".gif"](file, iter(frames), fps, ""))
        except (MediaError, OSError) as error:
            log.warning(f"the clip cannot be played in the page: {error}")
    return found


Place = Callable[[], Path]
"""Makes a folder that clips can be written to. Raises OSError."""


def _save(
    places: Sequence[Place], clip: BuiltinClip, frames: Sequence[Image.Image], seed: int, text: str,
    problems: list[str],
) -> list[Path]:
    """Writes a clip to the first of ``places`` that takes it in any format, and returns its files, if any.

    What goes wrong, and where the clip is instead, is put to ``problems``.
    """
    pictures = [np.asarray(frame.convert("RGB")) for frame in frames]
    for number, place in enumerate(places):
        try:
            folder = place()
            stem = folder / f"{images.get_next_sequence_number(str(folder), ''):05}-{seed}"
        except (OSError, ValueError) as error:  # ValueError: a path that is no text
            problems.append(f"no clip can be written to the output folder ({shown(str(error))})")
            continue
        files = _write(stem, clip, pictures, text, problems)
        if files:
            if number:
                problems.append(f"the clip is in {shown(str(folder))} instead")
            return files
    problems.append("the clip is in no file: save it from this page or answer")
    return []


def _write(
    stem: Path, clip: BuiltinClip, pictures: Sequence[Frames], text: str, problems: list[str],
) -> list[Path]:
    """The files of a clip. Where one cannot be written the frames are, so that none are lost."""
    comment = text.encode("utf-8", "replace").decode().replace("\0", " ") if shared.opts.enable_pnginfo else ""
    files: list[Path] = []
    left = [ending(name) for name in clip.options.formats]
    while left:
        suffix = left.pop(0)
        writer = partial(write_png, key="parameters") if suffix == ".png" else WRITERS[suffix]

        def write(file: Path, writer: Callable[..., list[Path]] = writer) -> list[Path]:
            return writer(file, iter(pictures), clip.options.fps, comment)

        try:
            files += write_whole(stem.with_suffix(suffix), write)
        except MediaError as error:
            problems.append(str(error).removeprefix("IV-mixed: ").rstrip("."))
            if suffix != ".png" and ".png" not in left and not any(file.suffix == ".png" for file in files):
                left.append(".png")
    return files


@contextmanager
def _places(clip: BuiltinClip) -> Iterator[list[Place]]:
    """Where a clip may be written, the best first: beside the host's pictures, else where temporary files are, in a
    folder that stays. Where pictures are not saved it is a folder for the page alone, or for the API's answer."""
    if clip.saved and shared.opts.samples_save:
        yield [partial(_dated, Path(clip.p.outpath_samples, "IV-mixed")), _kept]
    elif _asked_by_api(clip.p):
        made: list[Path] = []

        def place() -> Path:
            made.append(scratch.folder())
            return made[-1]

        try:
            yield [place]
        finally:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
    else:
        yield [scratch.folder]


def _dated(folder: Path) -> Path:
    folder = folder / datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept() -> Path:
    """Where the host has its temporary files, else where the system has them."""
    chosen = shared.opts.data.get("temp_dir")
    for parent in (chosen, None) if chosen and Path(chosen).is_dir() else (None,):
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="ivmixed-saved-", dir=parent))
    raise OSError(errno.EACCES, os.strerror(errno.EACCES), tempfile.gettempdir())


def _asked_by_api(p: Any) -> bool:
    return bool(getattr(p, "is_api", False))


def _shown(p: Any, files: Sequence[Path], frames: Sequence[Image.Image], fps: float, text: str) -> list[Any]:
    """What the host goes on with in the place of a clip."""
    by_api = _asked_by_api(p)
    answer = _answer(files, frames) if by_api else _gallery(files, frames, fps)
    run = request.of(p).script_run
    if run is None:
        return answer
    return [selectable.stand_in(run, frames[0] if by_api else answer[0], answer, text)]


def _answer(files: Sequence[Path], frames: Sequence[Image.Image]) -> list[Any]:
    """For the API: the files in base64, which the host passes on, and the frames where asked for or nothing else is."""
    whole = [base64.b64encode(file.read_bytes()).decode() for file in files if file.suffix != ".png"]
    return [*whole, *(frames if not whole or any(file.suffix == ".png" for file in files) else [])]


def _gallery(files: Sequence[Path], frames: Sequence[Image.Image], fps: float) -> list[Image.Image]:
    """For the page: the moving picture, or the frames where these are what was asked for.

    The host shows pictures from the files that they are said to be saved as; others it would write by itself, into a
    folder that Forge Neo does not make.
    """
    stills = [file for file in files if file.suffix == ".png"]
    if len(stills) == len(files) == len(frames):
        return [_of_file(frame, file) for frame, file in zip(frames, stills)]
    if not files:  # the frames are all that there is of the clip
        return list(frames)
    moving = next((file for file in files if file.suffix in MOVING), None)
    if moving is None:
        moving = to_play((), [np.asarray(frame.convert("RGB")) for frame in frames], fps)
    return list(frames) if moving is None else [_of_file(frames[0], moving)]


def _of_file(frame: Image.Image, file: Path) -> Image.Image:
    """A picture that the host takes to be in that file."""
    picture = frame.copy()
    picture.already_saved_as = str(file)  # type: ignore[attr-defined]
    return picture
