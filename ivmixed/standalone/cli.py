"""The command line: ``ivmixed txt2vid``, ``batch``, ``bench``, ``metrics`` and ``demo``."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from .. import __version__
from ..cost import times_plain
from ..options import Option, Options
from ..plan import Move, Plan
from ..presets import PRESETS
from ..untrusted import Refusal, shown
from .batch.command import add_batch
from .bench.command import add_bench
from .settings import BOX, Settings, files_of, with_preset

if TYPE_CHECKING:  # torch and diffusers take seconds to import, and --help and a refusal need none of it
    from ..clips.encode import Frames
    from ..weights.noise import Noise
    from .pipeline import Clip

EXAMPLES = f"""examples:
  ivmixed txt2vid --prompt "a red circle moves right" --out clip.gif          with the bundled model
  ivmixed txt2vid --checkpoint sd15.safetensors --motion-module mm_sd15_v3.safetensors \\
      --prompt "a red kite over a beach" --size 512x512 --gamma-go 4 2 --interval 0 50 --out clip.mp4
  ivmixed txt2vid --from clip.mp4 --trust-paths --seed 2 --out another.mp4
presets: {"; ".join(f"{name}: {preset.help}" for name, preset in PRESETS.items())}"""

SETTINGS = tuple(option for option in Settings.declared() if option.name != "options")
"""What a command line sets besides the sampler's options."""


class UsageError(Refusal):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Settings and options are declared elsewhere; here they become flags."""
    parser = _Parser(prog="ivmixed", description="IV-Mixed sampling of AnimateDiff, ModelScope and VideoCrafter2 clips")
    parser.add_argument("--version", action="version", version=f"ivmixed {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    txt2vid = commands.add_parser(
        "txt2vid", help="make a clip from a prompt", epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    txt2vid.set_defaults(run=_txt2vid)
    add_settings(txt2vid)
    run = txt2vid.add_argument_group("run")
    run.add_argument("--out", type=Path, metavar="FILE", help=".gif, .mp4, .webm, .webp, or .png for frames")
    run.add_argument("--from", dest="source", type=Path, metavar="FILE",
                     help="take the settings of a clip that ivmixed made; flags given beside it win")
    run.add_argument("--trust-paths", action="store_true",
                     help="load the files that the clip of --from names; without it they are listed and refused")
    run.add_argument("--compare", action="store_true",
                     help="also make the plain clip from the same seed, and one with both side by side")
    run.add_argument("--plan", action="store_true", help="print the plan and its cost, and stop")
    run.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_device(run)
    for switch, words in (("offload", "keep models on the CPU while they are not needed"),
                          ("vae-slicing", "the VAE takes one frame at a time"),
                          ("attention-slicing", "compute attention in parts")):
        run.add_argument(f"--{switch}", action="store_true", help=f"less memory, more time: {words}")

    _add_metrics(commands)
    add_batch(commands, add_settings, settings_of)
    add_bench(commands, add_settings, settings_of)
    demo = commands.add_parser("demo", help="see the method work with the bundled model", allow_abbrev=False)
    demo.set_defaults(run=_demo)
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="default: %(default)s")
    demo.add_argument("--json", action="store_true", help="print the table as JSON on standard output")
    _add_device(demo)
    return parser


def add_settings(parser: Any) -> None:
    """The flags of all that makes a clip: settings, the sampler's options and presets."""
    groups = {name: parser.add_argument_group(name) for name in (
        "models", "clip", "ControlNet", "motion", "image model", "sampler")}
    for option in (*SETTINGS, *Options.declared()):
        _add_flag(groups[option.group or "sampler"], option)
    groups["sampler"].add_argument("--preset", choices=PRESETS, help="a named setting; flags given beside it win")


def _add_metrics(commands: Any) -> None:
    metrics = commands.add_parser("metrics", help="measure finished clips", allow_abbrev=False,
                                  description="A table of measures, a row for each clip; see docs/standalone.md")
    metrics.set_defaults(run=_metrics, extra="metrics")
    metrics.add_argument("clips", nargs="+", type=Path, metavar="CLIP",
                         help=".gif, .mp4, .webm, .webp, .png; a folder of clips, or of the PNG frames of one clip")
    metrics.add_argument("--json", action="store_true", help="print the table as JSON on standard output")
    metrics.add_argument("--clip", type=Path, metavar="FOLDER",
                         help="also the CLIP score, by a CLIPModel of transformers in a folder with its tokenizer")
    metrics.add_argument("--prompt", help="the prompt of the CLIP score (default: that in the clip)")
    metrics.add_argument("--fvd", type=Path, metavar="FILE",
                         help="also the Frechet video distance, by an I3D as TorchScript, such as StyleGAN-V's "
                              "i3d_torchscript.pt; such a file is code that is run, so take one that you trust")
    metrics.add_argument("--real", type=Path, nargs="+", default=[], metavar="CLIP",
                         help="the clips that --fvd takes the distance to, as files or folders")


def _add_device(group: Any) -> None:
    group.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: %(default)s)")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(group: Any, option: Option) -> None:
    default = option.to_text(option.default)
    kind = option.kind
    told = "|" in kind.metavar or kind.metavar in ("TEXT", "PATH")  # which says what is allowed
    help = option.help + ("" if told else f"; {kind.allowed}") + (f" (default: {default})" if default else "")
    more: dict[str, Any] = {"nargs": "+"} if kind.nargs == "+" else {"action": "append"} if kind.nargs == "*" else {}
    group.add_argument(_flag(option.name), metavar=kind.metavar, help=help.replace("%", "%%"), **more)


def _given(args: argparse.Namespace, options: Sequence[Option]) -> dict[str, Any]:
    """The values of the flags that are there."""
    words = ((option, getattr(args, option.name)) for option in options)
    return {option.name: option.from_words(given if isinstance(given, list) else [given])
            for option, given in words if given is not None}


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that a command line asks for: of ``--from``, over them ``--preset``, over that the flags."""
    values: dict[str, Any] = {}
    if getattr(args, "source", None) is not None:
        from ..clips.media import read_settings

        values = Settings.from_dict(read_settings(args.source)).to_dict()
        if not args.trust_paths:
            _refuse_paths(args, values)
    if args.preset is not None:
        values = with_preset(values, args.preset)
    options = {**values.pop("options", {}), **_given(args, Options.declared())}
    return Settings.from_dict({**values, **_given(args, SETTINGS), "options": options})


def _refuse_paths(args: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """A clip may come from anybody, and names files of this disk: they are listed, and not opened."""
    brought = [f"{_flag(name)} {shown(Settings.option(name).to_text(values[name]))}" for name in files_of(values)
               if getattr(args, name) is None]
    if brought:
        raise UsageError(f"{shown(str(args.source))} names files: {'; '.join(brought)}; "
                         "give --trust-paths to load these, or flags with yours")


def _txt2vid(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.plan:
        from .txt2vid import controlled, plan

        _print_plan(plan(settings), settings.free_init, controlled(settings), args.json)
        return 0
    if args.out is None:
        raise UsageError("--out is missing: name the file to write, such as clip.mp4")
    from ..clips import media
    from . import txt2vid

    files = [args.out]
    if args.compare:
        files += [args.out.with_stem(f"{args.out.stem}-{part}") for part in ("plain", "compare")]
    for file in files:
        media.check_out(file, txt2vid.playback(settings), settings.to_dict())
    device = txt2vid.choose_device(args.device)
    settings, given = txt2vid.complete(settings, device), settings
    txt2vid.check(settings)
    _hint(settings)
    if given.fps is None and txt2vid.is_told_fps(settings):
        print(f"ivmixed: VideoCrafter2 is told {settings.fps:g} frames a second, as by its own script (--fps); the "
              f"clip plays at {settings.playback_fps:g} (--playback-fps)", file=sys.stderr)
    for line in (*txt2vid.said(settings), *txt2vid.begins_with(settings)):
        print(f"ivmixed: {line}", file=sys.stderr)
    pipe = txt2vid.load(settings, device, offload=args.offload, vae_slicing=args.vae_slicing,
                         attention_slicing=args.attention_slicing)
    names, clips, code = ["IV-mixed", "plain"], [], 0

    def save(file: Path, frames: Frames, fps: float, made: Mapping[str, Any]) -> int:
        """At once, so that what comes after cannot lose it."""
        saved, problems = media.save_clip(file, frames, fps, made)
        args.written += saved
        return max([_say(problem, 1) for problem in problems], default=0)

    for wanted, file in zip([settings, _plain(settings)][:1 + args.compare], files):
        clips.append(txt2vid.generate(wanted, args.device, pipe=pipe, progress=not args.quiet))
        code |= save(file, clips[-1].frames, clips[-1].fps, clips[-1].settings)
    if args.compare:
        captions = [f"{name}: {clip.evaluations} evaluations" for name, clip in zip(names, clips)]
        both = media.side_by_side([clip.frames for clip in clips], captions)
        code |= save(files[2], both, clips[0].fps, clips[0].settings)
    _report(dict(zip(names, clips)), args.written, txt2vid.noises(settings), args.json)
    return code


def _plain(settings: Settings) -> Settings:
    """The same clip by the video model alone."""
    return replace(settings, options=settings.options.plain())


def _hint(settings: Settings) -> None:
    """The bundled model knows a small world only."""
    from .box.scenes import CAPTIONS, COLOURS, MOTIONS, SHAPES

    if settings.checkpoint == BOX and settings.prompt not in CAPTIONS:
        print(f'ivmixed: the bundled model knows "a COLOUR SHAPE MOTION" alone: {", ".join(COLOURS)}; '
              f'{", ".join(SHAPES)}; {", ".join(MOTIONS)}', file=sys.stderr)


def _print_plan(plan: Plan, passes: int, controlled: Callable[[Move], int], as_json: bool) -> None:
    """``passes``: how many times it is run. ``controlled``: how many ControlNets act in a move."""
    controlnet = passes * sum(controlled(move) for move in plan.moves if move.evaluates and move.reuse != "features")
    if as_json:
        print(json.dumps({"evaluations": passes * plan.evaluations, "video": passes * plan.count("video"),
                          "image": passes * plan.count("image"), "passes": passes,
                          "controlnet": controlnet,
                          "active_steps": plan.active_steps, "finishing_steps": plan.finishing_steps,
                          **plan.to_dict()}))
        return
    print(plan.describe())
    if not plan.moves:
        return
    if passes > 1:
        print(f"{passes} passes of these (FreeInit): {passes * plan.evaluations} evaluations")
    if controlnet:
        print(f"and {controlnet} of a ControlNet")
    print(f"about {passes * plan.evaluations / plan.steps:.1f} times the evaluations of the plain clip, "
          f"{passes * times_plain(plan, controlled=controlled):.2f} times its arithmetic")
    print(f"{'step':>4}  {'move':8}  {'model':5}  {'sigma':>17}  guidance")
    for move in plan.moves:
        guidance = "CFG scale" if move.guidance is None else f"{move.guidance:+.2f}"
        levels = f"{move.sigma_from:7.3f} -> {move.sigma_to:6.3f}"
        print(f"{move.step + 1:>4}  {move.kind:8}  {move.model:5}  {levels}  {guidance}")


def _report(clips: Mapping[str, Clip], written: Sequence[Path], taken: Mapping[str, Noise], as_json: bool) -> None:
    from ..measures import pixels

    rows = {}
    for name, clip in clips.items():
        measures = {}
        large = min(clip.frames.shape[1:3]) >= pixels.SMALLEST
        if large:
            measures["sharpness"] = pixels.sharpness(clip.frames)
        if large and len(clip.frames) > 1:
            measures |= {"flicker": pixels.flicker(clip.frames), "motion": pixels.motion(clip.frames)}
        rows[name] = {"evaluations": clip.evaluations, "seconds": round(clip.seconds, 2), **measures}
    if as_json:
        first = next(iter(clips.values()))
        print(json.dumps({"files": [str(path) for path in written], "plan": first.plan.describe(), "clips": rows,
                          "models": {name: noise.to_dict() for name, noise in taken.items()},
                          "settings": first.settings}))
        return
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for path in written:
        print(path)


def _metrics(args: argparse.Namespace) -> int:
    from ..measures.table import tabulate

    tabulate(args.clips, clip=args.clip, prompt=args.prompt, fvd=args.fvd, real=args.real, as_json=args.json)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import demo

    demo(args.out, args.device, args.json)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 for a run that failed or a clip that is elsewhere than wanted, 2
    for refused input, 130 for Ctrl-C."""
    args = argparse.Namespace(extra="standalone", written=[])
    try:
        try:
            _check_text(sys.argv[1:] if argv is None else argv)
            build_parser().parse_args(argv, args)
            return int(args.run(args))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a pipe that is closed says so here, and not when Python ends
    except ImportError as error:
        return _say(f"{error.name} is not installed: pip install 'ivmixed[{args.extra}]'", 1)
    except BrokenPipeError:
        _discard(sys.stdout)
        return 1
    except OSError as error:  # a full disk behind standard output, a file that vanished
        return _say(f"{shown(str(error.filename or 'the output'))}: {error.strerror or error}", 1)
    except MemoryError as error:
        return _say(str(error) or OUT_OF_MEMORY, 1)
    except Refusal as error:
        return _say(str(error), 2)
    except (RuntimeError, ArithmeticError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        done = ", ".join(map(str, args.written))
        return _say(f"stopped; written before: {done}" if done else "stopped; nothing was written", 130)


OUT_OF_MEMORY = "out of memory: use fewer or smaller frames, --image-chunk, --vae-slicing or --offload"


def _failed(error: Exception) -> int:
    """A run that failed. Raises what nobody has foreseen."""
    from ..sampling import NonFiniteError

    if isinstance(error, NonFiniteError):
        return _say(str(error), 1)
    if "out of memory" in str(error):
        return _say(OUT_OF_MEMORY, 1)
    raise error


def _check_text(argv: Sequence[str]) -> None:
    """What a shell hands over may be no text: bytes that are no UTF-8 become half surrogate pairs."""
    for text in argv:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{shown(text)} holds bytes that are no UTF-8; write or rename it in UTF-8") from None


def _discard(stream: TextIO) -> None:
    """What is still to be written to a closed pipe goes nowhere, so that Python says nothing of it as it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(line: str, code: int) -> int:
    try:
        print("ivmixed: " + " ".join(line.removeprefix("IV-mixed: ").split("\n")), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
