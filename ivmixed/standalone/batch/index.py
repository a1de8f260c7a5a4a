"""``index.html``: all clips of a batch on one page, with their settings. It needs no network, and runs no script."""
from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..settings import Settings
from . import store

NAME = "index.html"

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }}
body {{ margin: 1.5rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: 16rem 24rem }}
video, img {{ width: 100%; background: #8882; border-radius: 4px }}
video:not(:hover, :focus)::-webkit-media-controls {{ opacity: 0 }}
figcaption {{ overflow-wrap: anywhere }}
small, summary {{ opacity: .7 }}
table {{ border-spacing: .5rem 0; font-size: 12px }}
td {{ vertical-align: top }}
</style>
<h1>{title}</h1>
<p>{count} clips.</p>
<main>
"""


def write_index(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path | None:
    """Writes the page of clips with these sidecars, see `store.records`; None where it cannot be written.

    Clips of one name in several folders stand together, as the plain and the IV-mixed one of a bench.
    """
    records = sorted(records, key=lambda record: str(record["batch"].get("clip")).split("/")[::-1])
    page = _HEAD.format(title=html.escape(f"Clips in {folder.absolute().name}"), count=len(records))
    page += "".join(_figure(record) for record in records) + "</main>\n</html>\n"
    target = folder / NAME
    with suppress(OSError), store.hidden(folder) as own:
        (own / NAME).write_text(page, "utf-8")
        os.replace(own / NAME, target)
        return target
    return None


def _figure(record: Mapping[str, Any]) -> str:
    settings, batch = record["ivmixed"], record["batch"]
    clip = str(batch.get("clip", ""))
    address = html.escape(quote(clip))
    is_picture = clip.endswith((".gif", ".webp"))
    shown = (f'<img src="{address}" loading="lazy" alt="">' if is_picture else
             f'<video src="{address}" controls loop muted preload="metadata" loading="lazy"></video>')
    rows = "".join(f"<tr><td>{_text(name)}<td>{_text(value)}" for name, value in _told(settings))
    seconds = batch.get("seconds")
    cost = (f"seed {_text(settings.get('seed'))}, {_text(batch.get('evaluations'))} evaluations, "
            f"{_text(round(seconds, 1) if isinstance(seconds, float) else seconds)} s")
    return (f"<figure>{shown}<figcaption>{_text(settings.get('prompt'))}<br><small>{_text(clip)}<br>{cost}</small>"
            f"<details><summary>settings</summary><table>{rows}</table></details></figcaption></figure>\n")


def _told(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What differs from the defaults, but for what the page says anyway."""
    usual = Settings().to_dict()
    options = settings.get("options")
    told = [(name, value) for name, value in settings.items()
            if name not in ("prompt", "options", "seed") and not _same(value, usual.get(name))]
    if isinstance(options, Mapping):
        told += [(name, value) for name, value in options.items() if not _same(value, usual["options"].get(name))]
    return told


def _same(value: Any, usual: Any) -> bool:
    def plain(one: Any) -> Any:
        return [plain(part) for part in one] if isinstance(one, (list, tuple)) else one

    return bool(plain(value) == plain(usual))


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_text(part) for part in value)
    return html.escape(f"{value:g}" if isinstance(value, float) else str(value))
