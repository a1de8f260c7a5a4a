"""The rows of a batch: JSON lines, CSV or a text file of prompts become checked settings.

A row has the names of `Settings` and of the sampler's options, and these besides: ``preset``, ``id`` (the name of the
clip), ``count`` (clips of it, with seeds one after the other). What a row leaves out is as the command line has it.
"""
from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...options import Option, OptionError, Options
from ...presets import PRESETS
from ...untrusted import JsonError, Refusal, parse_object, shown
from ..settings import Settings, with_preset

MOST_BYTES = 1 << 26
"""Of a file of rows: 64 MiB."""
MOST_CLIPS = 100_000
"""Of one batch."""
LONGEST_NAME = 230
"""Bytes of each part of an id: a file's name may have 255, and an ending and that of the sidecar come after it."""

_OPTIONS = {option.name: option for option in Options.declared()}
_SETTINGS = {option.name: option for option in Settings.declared() if option.name != "options"}
_OWN = ("preset", "id", "count", "options")


class RowsError(Refusal):
    """Rows that were refused. ``problems``: a line for each, which names the row, the field and what is allowed."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Row:
    """One row, checked by itself. ``where`` says where it stands; ``id`` is "" where none was given."""

    where: str
    settings: Settings
    """Of its first clip: it has a seed, 0 where neither the row nor the command line says one."""
    id: str = ""
    count: int = 1

    def clips(self) -> Iterator[tuple[str, Settings]]:
        """The id and the settings of each of its clips."""
        for k in range(self.count):
            name = f"{self.id}-{k}" if self.id and self.count > 1 else self.id
            yield name, replace(self.settings, seed=(self.settings.seed or 0) + k)


def read_rows(path: Path, defaults: Settings) -> list[Row]:
    """The rows of a file: ``.jsonl`` (an object on each line), ``.csv`` (a line of names first) or ``.txt`` (a prompt
    on each line); empty lines are passed over.

    ``defaults``: what a row has where it says nothing. Raises RowsError, which names every row that is refused, and
    Refusal for a file that cannot be read, is too large, or holds no rows or too many.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv, ".txt": _prompts}
    said = shown(str(path))
    if path.suffix.lower() not in readers:
        raise Refusal(f"{said} has an unknown ending; allowed: {', '.join(readers)}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Refusal(f"{said} is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refusal(f"{said} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refusal(f"{said} is no UTF-8; save it as UTF-8") from None
    rows, problems = [], []
    for line, values in readers[path.suffix.lower()](text):
        where = f"{shown(path.name, 60)} line {line}"
        try:
            if isinstance(values, str):
                raise Refusal(values)
            rows.append(row_of(values, defaults, where))
        except Refusal as error:
            problems.append(f"{where}: {plain(error)}")
    if problems:
        raise RowsError(problems)
    clips = sum(row.count for row in rows)
    if not rows or clips > MOST_CLIPS:
        raise Refusal(f"{said} asks for {clips} clips; allowed: 1 to {MOST_CLIPS}")
    return rows


def row_of(values: Mapping[str, Any], defaults: Settings, where: str) -> Row:
    """One row by its values, checked by itself. Raises Refusal."""
    values = dict(values)
    id, count, preset = values.pop("id", ""), values.pop("count", 1), values.pop("preset", None)
    wanted = defaults.to_dict()
    if preset is not None:
        if preset not in PRESETS:
            raise OptionError("preset", preset, ", ".join(PRESETS))
        wanted = with_preset(wanted, preset)
    given = values.pop("options", {})
    if not isinstance(given, Mapping):
        raise OptionError("options", given, "an object of options by name", "is none")
    options = {**wanted.pop("options"), **given}
    for name in [name for name in values if name in _OPTIONS]:
        options[name] = _read(_OPTIONS[name], values.pop(name))
    unknown = [name for name in values if name not in _SETTINGS]
    if unknown:
        known = ", ".join([*_OWN, *_SETTINGS, *_OPTIONS])
        raise OptionError(str(unknown[0]), values[unknown[0]], known, "is no name that a row has")
    own = {name: _read(_SETTINGS[name], value) for name, value in values.items()}
    settings = Settings.from_dict({**wanted, **own, "options": options})
    if not settings.prompt.strip():
        raise OptionError("prompt", settings.prompt, "a text that says what the clip shows", "is empty")
    if settings.seed is None:
        settings = replace(settings, seed=0)
    count = _count(count)
    if (settings.seed or 0) + count > 2**63 - 1:
        raise OptionError("count", count, "fewer: the seeds go beyond 2^63 - 2")
    return Row(where, settings, check_id(id), count)


def _read(option: Option, value: Any) -> Any:
    """A value of a row: CSV has texts alone."""
    return option.from_text(value) if isinstance(value, str) else value


def plain(error: Exception) -> str:
    """What an error says, without the name of the project before it and the dot behind it."""
    return " ".join(str(error).removeprefix("IV-mixed: ").split()).rstrip(".")


def _count(value: Any) -> int:
    allowed = f"a whole number from 1 to {MOST_CLIPS}"
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MOST_CLIPS:
        raise OptionError("count", value, allowed)
    return int(text)


def check_id(value: Any) -> str:
    """The name of a clip below the folder of the batch, with "/" between folders. Raises OptionError: names come from
    files of anybody's."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else "\0"
    parts = text.split("/") if text else []
    for part in parts:
        wrong = re.search("[\0-\x1f\x7f\\\\\ud800-\udfff]", part) or part != part.strip() or part.startswith(".")
        if not part or wrong or len(part.encode()) > LONGEST_NAME:
            raise OptionError("id", value, f"a file's name without its ending, of at most {LONGEST_NAME} bytes "
                              "and no dot in front; folders before it with / between them")
    return text


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, parse_object(line)
            except JsonError as error:
                yield number, str(error)


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                if len(set(names)) < len(names) or "options" in names:
                    yield reader.line_num, "has a name twice, or options, which stand in columns of their own"
                    return
            elif len(cells) > len(names):
                yield reader.line_num, f"has {len(cells)} cells under {len(names)} names"
            else:
                yield reader.line_num, {name: cell for name, cell in zip(names, cells) if cell.strip()}
    except csv.Error as error:
        yield reader.line_num, f"is no CSV ({shown(str(error))})"


def _prompts(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}
