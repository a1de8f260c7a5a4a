"""The tables of docs/options.md, from the declarations: ``python -m tests.options_table`` writes them anew.

The last column, where an option was seen to work, is kept by hand: it stays as it is in the file.
"""
from __future__ import annotations

import re
from pathlib import Path

from ivmixed.motion import MotionOptions
from ivmixed.options import OPTIONS, Option
from ivmixed.webui.options import WebUIOptions

FILE = Path(__file__).parent.parent / "docs" / "options.md"
TABLES: dict[str, tuple[Option, ...]] = {
    "The sampler": WebUIOptions.declared(),
    "Built-in motion": tuple(sorted(MotionOptions.declared(), key=lambda option: option.advanced))}
HEAD = "| Option | Kind | Default | Allowed | What it does | Seen |\n|---|---|---|---|---|---|\n"


def table(options: tuple[Option, ...], seen: dict[str, str]) -> str:
    """The table of some options; ``seen``: its last column by their names."""
    rows = []
    for option in options:
        default = "as `" + option.follows + "`" if option.follows else f"`{option.to_text(option.default)}`"
        default = default.replace("``", "none")
        where = " (WebUI only)" if options == WebUIOptions.declared() and option not in OPTIONS else ""
        allowed = f"as `{option.follows}`" if option.follows else option.kind.allowed
        rows.append(f"| `{option.name}` | {option.kind.noun} | {default} | {allowed} | "
                    f"{option.help}{where} | {seen.get(option.name, '')} |\n")
    return HEAD + "".join(rows)


def kept(text: str) -> dict[str, str]:
    """The last column of the tables in a document, by the names of the options."""
    return dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*?) \|$", text, re.MULTILINE))


def written(text: str) -> str:
    """A document with its tables made anew."""
    for heading, options in TABLES.items():
        start = text.index(HEAD, text.index(f"## {heading}\n"))
        end = text.find("\n\n", start) + 1 or len(text)
        text = text[:start] + table(options, kept(text[start:end])) + text[end:]
    return text


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text()))
