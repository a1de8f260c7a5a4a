"""``ivmixed metrics``: measures of finished clips, a row for each."""
from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..clips import media
from ..clips.decode import Content
from ..clips.encode import Frames, MediaError
from ..options import OptionError
from ..untrusted import shown
from . import neural, pixels, quality


class Measure(NamedTuple):
    """A column of the table. ``better``: "less", "more", or "" where neither is; ``frames``: how many it needs;
    ``install``: what pip is told where its package is missing."""

    compute: Callable[[Frames], float]
    better: str
    frames: int
    install: str = ""


MEASURES = {
    "brisque": Measure(quality.brisque, "less", 1, "--no-deps brisque==0.2.0"),
    "piqe": Measure(quality.piqe, "less", 1),
    "sharpness": Measure(pixels.sharpness, "", 1),
    "flicker": Measure(pixels.flicker, "less", 2),
    "warping": Measure(pixels.warping_error, "less", 2),
    "cosine": Measure(neural.feature_cosine, "more", 2, "'ivmixed[metrics]'"),
    "motion": Measure(pixels.motion, "", 2),
}

Row = dict[str, Any]


def tabulate(
    paths: Sequence[Path], *, clip: Path | None = None, prompt: str | None = None, fvd: Path | None = None,
    real: Sequence[Path] = (), as_json: bool = False,
) -> dict[str, Any]:
    """Measures clips, prints and returns ``{"clips": [row, ...]}``, with ``fvd`` also ``{"fvd": value}``.

    A row has the clip's ``file``, ``frames``, ``width`` and ``height``, and each of `MEASURES`: ``None`` where the clip
    has too few frames or a flat picture, or where a package is missing, which is said on standard error; and ``notes``
    where the file and its comment disagree. ``paths`` and
    ``real``: see `media.clips_at`. ``clip``: a folder for `networks.ClipScore`; the prompt is ``prompt``, else that in
    the clip. ``fvd``: a file for `networks.VideoFeatures`; the FVD is the distance from ``paths`` to ``real``.

    Raises OptionError and MediaError, before anything is measured except for a clip that is damaged, too small, or too
    short for the FVD's network.
    """
    files, others = ([file for path in side for file in media.clips_at(path)] for side in (paths, real))
    _check(files, others, clip, prompt, fvd)
    prompts = [prompt or _own_prompt(file) for file in files] if clip else []
    score = neural.ClipScore(clip) if clip else None
    features = neural.VideoFeatures(fvd) if fvd else None
    known = [features(_read(file).frames) for file in others] if features else []
    rows, made, missing = [], [], set()
    for k, file in enumerate(tqdm(files, unit="clip", disable=None)):
        frames, _, notes = _read(file)
        row, absent = measure(frames)
        missing |= absent
        if score:
            row["clip"] = score(frames, prompts[k])
        rows.append({"file": str(file), "frames": len(frames), "width": frames.shape[2], "height": frames.shape[1],
                     **row, **({"notes": notes} if notes else {})})
        if features:
            made.append(features(frames))
    table: dict[str, Any] = {"clips": rows}
    if features:
        table["fvd"] = neural.frechet_distance(made, known)
    for name in sorted(missing):
        print(f"ivmixed: {name} is left out: pip install {MEASURES[name].install}", file=sys.stderr)
    print(json.dumps(table) if as_json else _text(table, len(others)))
    return table


def measure(frames: Frames) -> tuple[Row, set[str]]:
    """The row of one clip, and the names of the measures whose package is missing. Raises ValueError."""
    row: Row = {}
    missing = set()
    for name, declared in MEASURES.items():
        row[name] = None
        if len(frames) >= declared.frames:
            try:
                value = declared.compute(frames)
                row[name] = value if math.isfinite(value) else None
            except ModuleNotFoundError:
                missing.add(name)
    return row, missing


def _check(
    files: Sequence[Path], others: Sequence[Path], clip: Path | None, prompt: str | None, fvd: Path | None,
) -> None:
    if prompt is not None and (clip is None or not prompt.strip()):
        raise OptionError("prompt", prompt, "a text, with --clip FOLDER")
    if others and fvd is None:
        raise OptionError("real", str(others[0]), "clips, with --fvd FILE")
    if fvd is not None and min(len(files), len(others)) < 2:
        raise OptionError("fvd", str(fvd), "at least 2 clips, and at least 2 real ones after --real",
                          f"was given {len(files)} and {len(others)} clips")


def _own_prompt(file: Path) -> str:
    try:
        return str(media.read_settings(file)["prompt"])
    except (MediaError, KeyError):
        raise OptionError("prompt", None, f"a text after --prompt, as {shown(str(file))} does not say its own"
                          ) from None


def _read(file: Path) -> Content:
    content = media.read(file)
    height, width = content.frames.shape[1:3]
    if min(height, width) < 16:
        raise MediaError(f"{shown(str(file))} has {width}x{height} pixels; measures need at least 16x16")
    return content


def _text(table: dict[str, Any], others: int) -> str:
    rows = table["clips"]
    keys = [key for key in rows[0] if key not in ("file", "frames", "width", "height", "notes")]
    files = [row["file"].encode("utf-8", "backslashreplace").decode() for row in rows]  # a name may be no text
    width = max(len("better"), *map(len, files))
    better = {**{name: declared.better for name, declared in MEASURES.items()}, "clip": "more"}
    lines = [f"{'clip':<{width}}" + "".join(f"{key:>11}" for key in keys)]
    for file, row in zip(files, rows):
        cells = ["-" if row[key] is None else f"{row[key]:.4g}" for key in keys]
        lines.append(f"{file:<{width}}" + "".join(f"{cell:>11}" for cell in cells))
    lines.append(f"{'better':<{width}}" + "".join(f"{better[key]:>11}" for key in keys))
    lines += [f"{file}: {note}" for file, row in zip(files, rows) for note in row.get("notes", ())]
    lines.append("A frozen clip has flicker 0, warping 0, cosine 1 and motion 0: read them together.")
    if "fvd" in table:
        lines.append(f"FVD of {len(rows)} clips to {others} real ones: {table['fvd']:.4g}; less is better. Published "
                     f"figures take thousands of clips, and do not compare with it.")
    return "\n".join(lines)
