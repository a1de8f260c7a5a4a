"""The benchmarks: layouts of the suites, and one of them from its prompts to its report, with the model in the box."""
from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from ivmixed.clips.media import write_clip
from ivmixed.measures import umt
from ivmixed.options import OptionError
from ivmixed.standalone.batch.rows import RowsError
from ivmixed.standalone.bench import measure, report
from ivmixed.standalone.bench.command import SUITE_NAMES
from ivmixed.standalone.bench.make import manifest_of, rows_of
from ivmixed.standalone.bench.suites import SUITES, read_prompts
from ivmixed.standalone.box.scenes import CAPTIONS
from ivmixed.standalone.cli import main
from ivmixed.standalone.settings import Settings
from ivmixed.untrusted import Refusal

from . import tiny


def bench(capsys, *args):
    """Exit code, standard output, standard error."""
    code = main(["bench", *map(str, args)])
    return code, *capsys.readouterr()


# --- suites

FILES = {
    "ucf101": "ApplyEyeMakeup\ta woman puts on make-up\nArchery\tan archer\n",
    "msrvtt": "video6513\ta family is having a conversation\n",
    "chronomagic-150": 'videoid,name,sub_category,main_category\n3d_printing_08,"A, ""b""",x,y\n',
    "vbench": json.dumps([{"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
                          {"prompt_en": "a kite", "dimension": ["color"]},
                          {"prompt_en": "a kite", "dimension": ["object_class"]}]),
}


@pytest.mark.parametrize("suite, names, prompt", [
    ("ucf101", [f"{name}-{k}" for name in ("ApplyEyeMakeup", "Archery") for k in range(5)], "a woman puts on make-up"),
    ("msrvtt", ["video6513-0", "video6513-1", "video6513-2"], "a family is having a conversation"),
    ("chronomagic-150", ["1/3d_printing_08", "2/3d_printing_08", "3/3d_printing_08"], 'A, "b"'),
    ("vbench", [f"In a still frame, a stop sign-{k}" for k in range(25)] + [f"a kite-{k}" for k in range(5)],
     "In a still frame, a stop sign"),
])
def test_each_suite_has_the_names_that_its_own_code_expects(tmp_path, suite, names, prompt):
    (tmp_path / "prompts").write_text(FILES[suite])
    prompts = read_prompts(SUITES[suite], tmp_path / "prompts")
    wanted, rows = rows_of(suite, prompts, "prompts", Settings(seed=7))
    assert [clip.name for clip in wanted] == names and wanted[0].prompt == prompt
    assert [row.id for row in rows] == [f"{variant}/{name}" for name in names for variant in ("plain", "iv-mixed")]
    assert [row.settings.seed for row in rows] == [7 + k for k in range(len(names)) for _ in range(2)]
    assert rows[0].settings.options == Settings().options.plain() and rows[1].settings.options == Settings().options


def test_suites_ask_for_what_the_benchmarks_say():
    assert tuple(SUITES) == SUITE_NAMES
    assert {name: (suite.prompts, suite.clips) for name, suite in SUITES.items()} == {
        "ucf101": (101, 101 * 5), "msrvtt": (497, 497 * 3), "chronomagic-150": (150, 150 * 3),
        "chronomagic-1649": (1649, 1649 * 3), "vbench": (944, 75 * 25 + (944 - 75) * 5)}


@pytest.mark.parametrize("suite, text, words", [
    ("ucf101", "no tab\n", "line 1 is no name, a tab and a prompt"), ("chronomagic-150", "a,b\n1,2\n", "videoid"),
    ("vbench", '{"a": 1}', "no list"), ("vbench", "x", "no JSON"), ("msrvtt", "\n", "holds no prompts"),
])
def test_another_file_is_refused(tmp_path, suite, text, words):
    (tmp_path / "prompts").write_text(text)
    with pytest.raises(Refusal, match=words):
        read_prompts(SUITES[suite], tmp_path / "prompts")


def test_a_name_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "prompts").write_text("../../x\ta kite\n")
    with pytest.raises(RowsError, match=r"prompts line 1: id = '\.\./\.\./x-0'"):
        rows_of("ucf101", read_prompts(SUITES["ucf101"], tmp_path / "prompts"), "prompts", Settings())


# --- one suite, from its prompts to its report

@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """UMT's weights, and reference features of them; a CLIP model."""
    folder = tmp_path_factory.mktemp("networks")
    torch.save({"model": tiny.umt_tensors(depth=1)}, folder / "umt.pth")
    torch.save(torch.randn(150, 8, generator=torch.Generator().manual_seed(0)).half(), folder / "reference.pt")
    return folder / "umt.pth", folder / "reference.pt", tiny.saved_clip_model(folder / "clip")


def test_a_suite_from_its_prompts_to_its_report(capsys, tmp_path, networks):
    """2 prompts of ChronoMagic's form, 3 clips of each, plain and IV-mixed: 12 clips of the box."""
    out, prompts = tmp_path / "out", tmp_path / "prompts.csv"
    lines = "".join(f"box_{k:02d},{caption}\n" for k, caption in enumerate(CAPTIONS[:2]))
    prompts.write_text("videoid,name\n" + lines)
    small = ["--steps", 2, "--frames", 2, "--seed", 100, "--device", "cpu", "--quiet"]
    command = ["make", "--suite", "chronomagic-150", "--prompts", prompts, "--out", out, *small]
    assert bench(capsys, *command, "--preset", "plain")[0] == 2 and not out.exists()
    code, said, error = bench(capsys, *command)
    assert code == 0 and "2 prompts, ChronoMagic-Bench-150 150: what is measured of them is not its figure" in error
    assert "12 of 12 clips are there" in said
    for variant in ("plain", "iv-mixed"):
        assert {str(file.relative_to(out / "clips" / variant)) for file in (out / "clips" / variant).rglob("*.*")} == {
            f"{generation}/box_{k:02d}.mp4" for generation in (1, 2, 3) for k in range(2)}  # and nothing else
    sidecars = [json.loads((out / "sidecars" / variant / "2" / "box_01.mp4.json").read_text())["ivmixed"]
                for variant in ("plain", "iv-mixed")]
    assert sidecars[0]["seed"] == sidecars[1]["seed"] == 104 and sidecars[0]["options"] != sidecars[1]["options"]
    assert len(manifest_of(out).clips) == 6

    weights, reference, clip = networks
    look = ["measure", "--out", out, "--umt", weights, "--umt-reference", reference, "--clip", clip, "--device", "cpu",
            "--quiet", "--json"]
    code, said, error = bench(capsys, *look)
    assert code == 0, error
    found = json.loads(said)
    of = {(row["measure"], row["variant"]): row for row in found["figures"]}
    assert found["clips"] == {"plain": 6, "iv-mixed": 6}
    one = of["UMT-FVD", "plain"]
    assert one["clips"] == 6 and one["of"] == 450 and len(one["spread"]["generations"]) == 3

    # UMT-FVD once more, from the features that lie beside the clips
    values = []
    for generation in (1, 2, 3):
        kept = [np.load(out / "features" / "umt" / "plain" / str(generation) / f"box_{k:02d}.npz")["features"]
                for k in range(2)]
        values.append(umt.umt_fvd(np.stack(kept), umt.reference(reference))[0])
    assert one["value"] == pytest.approx(np.mean(values)) and one["spread"]["generations"] == pytest.approx(values)
    scores = [float(np.load(file)["clip"]) for file in (out / "features" / "clip" / "iv-mixed").rglob("*.npz")]
    assert of["CLIP score", "iv-mixed"]["value"] == pytest.approx(np.mean(scores)) and len(scores) == 6
    assert of["flicker", "plain"]["value"] > 0

    # features are computed once, but for a clip that has changed
    kept = {file: os.stat(file).st_mtime_ns for file in (out / "features").rglob("*.npz")}
    changed = out / "clips" / "plain" / "1" / "box_01.mp4"
    os.utime(changed, (1, 1))
    assert bench(capsys, *look)[0] == 0
    again = [file.name for file, date in kept.items() if os.stat(file).st_mtime_ns != date]
    assert again == ["box_01.npz"] * 3

    (out / "vbench").mkdir()
    for variant, value in (("plain", 0.5), ("iv-mixed", 0.75)):
        (out / "vbench" / f"{variant}.json").write_text(json.dumps({"subject_consistency": [value, [{}, {}]]}))
    code, said, _ = bench(capsys, "report", "--out", out)
    assert code == 0 and said == (out / "report.md").read_text()
    assert "**These are not the figures of ChronoMagic-Bench-150: they are of 6 plain and 6 iv-mixed clips, and it " \
           "asks for 450 each." in said
    row = next(line for line in said.splitlines() if line.startswith("| UMT-FVD |"))
    assert row.count("(6 of 450 clips)") == 2
    assert all(figure in said for figure in ("275.2", "228.6", "239.31", "223.05"))
    assert "| VBench subject_consistency | 0.5 | 0.75 | +50.0 % | more |" in said
    assert sum(line.endswith(": mean over clips.") for line in said.splitlines()) == 1  # of all measures of the kind
    table = json.loads((out / "report.json").read_text())
    assert table["rows"][0]["plain"]["value"] == pytest.approx(np.mean(values)) and table["incomplete"]

    # another suite, or other prompts, do not go into the same folder
    prompts.write_text("videoid,name\nbox_99,a red circle turns\n")
    code, _, error = bench(capsys, *command)
    assert code == 2 and "holds chronomagic-150 of 2 prompts" in error


def test_a_whole_suite_is_reported_without_a_warning():
    suite = SUITES["chronomagic-150"]
    figures = [{"measure": "UMT-FVD", "variant": variant, "value": value, "clips": 450, "of": 450, "better": "less",
                "spread": {}, "rests_on": "x"} for variant, value in (("plain", 250.0), ("iv-mixed", 200.0))]
    measured = {"figures": figures, "clips": {"plain": suite.clips, "iv-mixed": suite.clips}, "prompts": suite.prompts}
    whole = report.tabulate(measured, [], "chronomagic-150")
    text = report.markdown(whole)
    assert "not the figures" not in text and "| UMT-FVD | 250 | 200 | -20.0 % | less |" in text
    measured["clips"]["plain"] = figures[0]["clips"] = 449
    text = report.markdown(report.tabulate(measured, [], "chronomagic-150"))
    assert "**These are not the figures" in text and "| UMT-FVD | 250 (449 of 450 clips) | 200 |" in text


# --- measuring

def test_fvd_is_of_the_clips_there_and_a_short_clip_is_named(capsys, tmp_path):
    """UCF-101's form, three clips of one prompt that are made here; the network's features are the mean colour."""
    out, real = tmp_path / "out", tmp_path / "real"
    (tmp_path / "prompts.txt").write_text("One\ta kite\n")
    generator = np.random.default_rng(0)

    def write(file, frames=16):
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = generator.integers(0, 256, 3)
        write_clip(file, np.broadcast_to(colour, (frames, 32, 32, 3)).astype(np.uint8), 8, {})
        (file.parent / f"{file.name}.json").unlink()

    from ivmixed.standalone.bench.make import Manifest, _keep

    wanted, _ = rows_of("ucf101", read_prompts(SUITES["ucf101"], tmp_path / "prompts.txt"), "prompts.txt", Settings())
    wanted = wanted[:3]
    _keep(out, Manifest("ucf101", "prompts.txt", "0", 1, tuple(wanted)))
    for clip in wanted:
        write(out / clip.clip("plain"))
        write(out / clip.clip("iv-mixed"), 9 if clip.name == "One-2" else 16)
    for k in range(2):
        write(real / f"{k}.mp4")
    look = ["measure", "--out", out, "--device", "cpu", "--quiet", "--json"]
    code, said, error = bench(capsys, *look, "--i3d", tiny.saved_detector(tmp_path / "i3d.pt"), "--real", real,
                              "--fvd-batch", 4)
    assert code == 1 and error.count("\n") == 1 and "One-2.mp4: a clip of 9 frames; needed: at least 16" in error
    of = {(row["measure"], row["variant"]): row for row in json.loads(said)["figures"]}
    assert of["FVD", "plain"]["clips"] == 3 and of["FVD", "iv-mixed"]["clips"] == 2
    assert of["FVD in batches of 4", "plain"]["clips"] == 2  # as many as there are real ones
    kept = [np.stack([np.load(file)["features"] for file in sorted((out / "features" / "i3d" / side).rglob("*.npz"))])
            for side in ("plain", "real")]
    means = kept[0][:, -1].mean(0) - kept[1][:, -1].mean(0)
    assert of["FVD", "plain"]["value"] > means @ means
    assert of["flicker", "plain"]["value"] == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("args, words", [
    (["--umt", "x.pth"], "x.pth"), (["--i3d", __file__], "--i3d and --real together"),
    (["--umt-reference", "x.pt"], "--umt and --umt-reference together"), (["--fvd-batch", "0"], "fvd_batch = '0'"),
])
def test_what_cannot_be_measured_is_refused(capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = bench(capsys, "measure", "--out", tmp_path)
    assert code == 2 and "begin with ivmixed bench make" in error
    from ivmixed.standalone.bench.make import Manifest, SuiteClip, _keep

    _keep(tmp_path, Manifest("ucf101", "x", "0", 1, (SuiteClip("a-0", "a kite", 0),)))
    code, _, error = bench(capsys, "report", "--out", tmp_path)
    assert code == 2 and "ivmixed bench measure makes them" in error
    code, _, error = bench(capsys, "measure", "--out", tmp_path, "--device", "cpu", *args)
    assert code == 2 and error.count("\n") == 1 and words in error


def test_kept_features_are_read_as_numbers_alone(tmp_path):
    look = measure.Look(tmp_path / "x.mp4", "", tmp_path / "f" / "x.npz", "k")
    measure.keep(look, {"features": np.arange(3.0)})
    assert measure.kept(look)["features"].tolist() == [0, 1, 2]
    np.savez(look.kept, key=np.array("k"), features=np.array([print], dtype=object))
    assert measure.kept(look) is None
    look.kept.write_bytes(b"damaged")
    assert measure.kept(look) is None
    with pytest.raises(OptionError, match="umt"):
        measure.FeatureWorker({"umt": tmp_path / "f" / "x.npz"}, "cpu").network("umt")
