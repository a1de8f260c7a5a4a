"""The command line of ``ivmixed batch``, and what ``ivmixed bench make`` shares with it."""
from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...options import OptionError
from ..settings import Settings

if TYPE_CHECKING:  # these need torch, and --help does not
    from .jobs import Job
    from .rows import Row

MEMORY = ("offload", "vae_slicing", "attention_slicing")


def add_batch(commands: Any, add_settings: Callable[[Any], None], defaults: Callable[[Any], Settings]) -> None:
    """The command ``batch``. ``add_settings`` gives a parser the flags of a clip, ``defaults`` reads them."""
    parser = commands.add_parser(
        "batch", help="make many clips, on all GPUs", allow_abbrev=False,
        description="Makes each clip of a list once; the same command again makes what is missing. See docs/batch.md")
    parser.set_defaults(run=functools.partial(_batch, defaults=defaults), extra="batch")
    parser.add_argument("rows", type=Path, metavar="ROWS",
                        help="a .jsonl, .csv or .txt file with a row for each clip; flags are the defaults of all rows")
    add_settings(parser)
    add_run(parser)
    parser.add_argument("--format", default="mp4", choices=("mp4", "webm", "gif", "webp"),
                        help="of the clips (default: %(default)s)")


def add_run(parser: Any) -> None:
    """The flags of how and where many clips are made."""
    run = parser.add_argument_group("batch")
    run.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the clips go")
    run.add_argument("--plan", action="store_true", help="print clips, evaluations and the expected time, and stop")
    run.add_argument("--shard", default="", metavar="I/N", help="the I-th of N parts, as for an array of SLURM jobs")
    add_engine(run)
    run.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    for switch, words in (("offload", "keep models on the CPU while they are not needed"),
                          ("vae-slicing", "the VAE takes one frame at a time"),
                          ("attention-slicing", "compute attention in parts")):
        run.add_argument(f"--{switch}", action="store_true", help=f"less memory, more time: {words}")


def add_engine(run: Any) -> None:
    """The flags of `engine`."""
    run.add_argument("--workers", metavar="N", help="devices at once (default: every GPU; with 1, or without Ray, one)")
    run.add_argument("--address", metavar="ADDRESS", help="work on this Ray cluster, as HOST:PORT or auto")
    run.add_argument("--retries", default="2", metavar="N",
                     help="how often a clip is tried again when its worker was lost (default: %(default)s)")
    run.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    run.add_argument("--quiet", action="store_true", help="no progress line")


def engine_of(args: argparse.Namespace) -> Any:
    """The engine that the flags of `add_engine` ask for, and how many workers it has. Raises OptionError, and
    ModuleNotFoundError where it takes Ray and that is missing."""
    from .. import txt2vid
    from .engine import engine

    workers = None if args.workers is None else whole("workers", args.workers, 1, 4096)
    retries = whole("retries", args.retries, 0, 100)
    if args.address is not None:
        return engine(workers, args.address, retries), workers or 1
    import torch

    device = txt2vid.choose_device(args.device)
    devices = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if workers and device.type != "cpu" and workers > devices:
        raise OptionError("workers", workers, f"1 to {devices}, as many as this machine has of {device.type}")
    if workers is None and devices > 1 and find_spec("ray") is None:
        print(f"ivmixed: Ray is not installed, so one of {devices} GPUs does all: pip install 'ivmixed[batch]'",
              file=sys.stderr)
        devices = 1
    return engine(workers or devices, None, retries), workers or devices


def whole(name: str, text: str, low: int, high: int) -> int:
    """A whole number of the command line. Raises OptionError."""
    if not (text.isascii() and text.isdigit() and len(text) < 7 and low <= int(text) <= high):
        raise OptionError(name, text, f"a whole number from {low} to {high}")
    return int(text)


def _batch(args: argparse.Namespace, defaults: Callable[[Any], Settings]) -> int:
    from .rows import read_rows

    rows = refusing(lambda: read_rows(args.rows, defaults(args)))
    return make_rows(args, rows, args.format)


def make_rows(args: argparse.Namespace, rows: Sequence[Row], ending: str, place: Any = None) -> int:
    """Makes the clips of rows as the flags of `add_run` say; returns the exit code."""
    from . import run
    from .jobs import beside, prepare, shard

    with ExitStack() as stack:
        engine, workers = engine_of(args)
        if args.address is not None:  # what the clips are made on is there, and not here
            pool = stack.enter_context(engine)
            engine, workers = nullcontext(pool), pool.workers
            device = pool.ask(_device, args.device)
        else:
            device = _device(args.device)
        jobs: list[Job] = refusing(lambda: prepare(rows, device, ending, place or beside))
        if args.shard:
            jobs = shard(jobs, args.shard)
        if args.plan:
            cost = refusing(lambda: run.plan(jobs, args.out, workers))
            print(json.dumps(cost) if args.json else run.describe(cost))
            return 0
        memory = {name: getattr(args, name) for name in MEMORY}
        try:
            summary = refusing(lambda: run.make(jobs, args.out, engine, device=args.device, memory=memory,
                                                part=args.shard, quiet=args.quiet))
        except KeyboardInterrupt:
            there = len(jobs) - len(run.missing(jobs, args.out))
            print(f"ivmixed: stopped; {there} of {len(jobs)} clips are there, and the same command makes the others",
                  file=sys.stderr)
            return 130
    print(run.as_json(summary) if args.json else summary.describe())
    if summary.index and not args.json:
        print(summary.index)
    return 0 if summary.there == summary.clips else 1


def _device(name: str) -> Any:
    """The kind of the device that work is done on."""
    import torch

    from .. import txt2vid

    return torch.device(txt2vid.choose_device(name).type)


_MOST_SAID = 20


def refusing(check: Callable[[], Any]) -> Any:
    """What ``check`` returns; of rows that it refuses each has its line on standard error. Raises Refusal."""
    from ...untrusted import Refusal
    from .rows import RowsError

    try:
        return check()
    except RowsError as error:
        for line in error.problems[:_MOST_SAID]:
            print(f"ivmixed: {line}", file=sys.stderr)
        raise Refusal(f"{len(error.problems)} rows are refused, nothing was made" if len(error.problems) > 1 else
                      "1 row is refused, nothing was made") from None
