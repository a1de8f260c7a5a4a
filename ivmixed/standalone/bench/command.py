"""The command line of ``ivmixed bench``."""
from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..batch.command import add_engine, add_run, refusing
from ..settings import Settings

SUITE_NAMES = ("ucf101", "msrvtt", "chronomagic-150", "chronomagic-1649", "vbench")


def add_bench(commands: Any, add_settings: Callable[[Any], None], defaults: Callable[[Any], Settings]) -> None:
    """The command ``bench``. Arguments as of `batch.command.add_batch`."""
    bench = commands.add_parser("bench", help="the paper's benchmarks, with your models and data", allow_abbrev=False,
                                description="make, then measure, then report; see docs/batch.md")
    steps = bench.add_subparsers(dest="step", required=True, metavar="STEP", parser_class=type(bench))

    make = steps.add_parser("make", help="make the clips of a suite, plain and IV-mixed", allow_abbrev=False)
    make.set_defaults(run=functools.partial(_make, defaults=defaults), extra="batch")
    make.add_argument("--suite", required=True, choices=SUITE_NAMES)
    make.add_argument("--prompts", required=True, type=Path, metavar="FILE",
                      help="the suite's own file of prompts; docs/batch.md says which and where it is from")
    add_settings(make)
    add_run(make)

    measure = steps.add_parser("measure", help="measure what is made", allow_abbrev=False)
    measure.set_defaults(run=_measure, extra="metrics")
    measure.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="that of make")
    measure.add_argument("--umt", type=Path, metavar="FILE", help="weights for UMT-FVD, UMT-msrvtt-7k.pth")
    measure.add_argument("--umt-reference", type=Path, metavar="FILE",
                         help="features of the bench's real clips, gt150_feats.pt or gt1649_feats.pt")
    measure.add_argument("--i3d", type=Path, metavar="FILE",
                         help="weights for FVD, StyleGAN-V's i3d_torchscript.pt; such a file is code that is run, so "
                              "take one that you trust")
    measure.add_argument("--real", type=Path, nargs="+", default=[], metavar="CLIP",
                         help="the real clips that --i3d takes the distance to, as files or folders")
    measure.add_argument("--fvd-batch", default="10", metavar="N",
                         help="clips of a batch, in the reading of FVD that hangs on it (default: %(default)s)")
    measure.add_argument("--clip", type=Path, metavar="FOLDER",
                         help="a CLIPModel of transformers in a folder with its tokenizer, for the CLIP score")
    measure.add_argument("--json", action="store_true", help="print the figures as JSON on standard output")
    add_engine(measure)

    report = steps.add_parser("report", help="put the figures beside the published ones", allow_abbrev=False)
    report.set_defaults(run=_report, extra="standalone")
    report.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="that of make")
    report.add_argument("--json", action="store_true", help="print it as JSON on standard output")


def _make(args: argparse.Namespace, defaults: Callable[[Any], Settings]) -> int:
    from .make import make

    return int(refusing(lambda: make(args, defaults)))


def _measure(args: argparse.Namespace) -> int:
    from .measure import measure

    return measure(args)


def _report(args: argparse.Namespace) -> int:
    from .report import report

    return report(args)
