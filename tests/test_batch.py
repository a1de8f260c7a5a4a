"""Many clips: rows, the folder of clips, the engine in this process. The model is the one in the box, on a CPU."""
from __future__ import annotations

import csv
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from ivmixed.clips.media import as_frames, read_clip, read_settings, write_clip
from ivmixed.options import OptionError
from ivmixed.standalone import txt2vid
from ivmixed.standalone.batch import jobs, store
from ivmixed.standalone.batch.index import write_index
from ivmixed.standalone.batch.progress import Progress
from ivmixed.standalone.batch.rows import LONGEST_NAME, RowsError, read_rows
from ivmixed.standalone.box.scenes import random_scene, render
from ivmixed.standalone.cli import main
from ivmixed.standalone.settings import Settings

from . import tiny

SMALL = ["--steps", "2", "--frames", "2", "--device", "cpu", "--quiet"]
CPU = torch.device("cpu")


def rows_file(folder, rows, name="rows.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def batch(capsys, *args):
    """Exit code, standard output, standard error."""
    code = main(["batch", *map(str, args)])
    return code, *capsys.readouterr()


def files(folder):
    """All files below a folder by their names in it; of sidecars what does not hang on the time."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != "index.html":
            found[str(file.relative_to(folder))] = file.read_bytes()
    for name in [name for name in found if name.endswith(".json")]:
        sidecar = json.loads(found[name])
        del sidecar["batch"]["seconds"]
        found[name] = sidecar
    return found


def no_leftovers(folder):
    assert [file.name for file in folder.rglob(".*")] == []


def prepared(folder, rows):
    file = rows if isinstance(rows, Path) else rows_file(folder, rows)
    return jobs.prepare(read_rows(file, Settings(steps=2, frames=2)), CPU)


# --- rows

def test_three_kinds_of_files_say_the_same(tmp_path):
    rows = [{"prompt": 'a "red" circle, turning', "seed": 5, "gamma_go": [4, 2], "size": "64x64"},
            {"prompt": "a blue square turns", "preset": "plain", "id": "blue", "count": 2}]
    by_json = read_rows(rows_file(tmp_path, rows), Settings(steps=7))
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "seed", "gamma_go", "size", "preset", "id", "count"])
        table.writerow([rows[0]["prompt"], 5, "4 to 2", "64x64", "", "", ""])
        table.writerow([rows[1]["prompt"], "", "", "", "plain", "blue", "2"])
    by_csv = read_rows(tmp_path / "rows.csv", Settings(steps=7))
    assert [(row.settings, row.id, row.count) for row in by_csv] == [
        (row.settings, row.id, row.count) for row in by_json]
    assert by_json[0].settings.options.gamma_go == (4, 2) and by_json[0].settings.steps == 7
    assert by_json[1].settings.options.interval == (0, 0)
    assert [(name, settings.seed) for name, settings in by_json[1].clips()] == [("blue-0", 0), ("blue-1", 1)]
    (tmp_path / "rows.txt").write_text("a red circle turns\n\n  a blue star bounces \r\n")
    by_text = read_rows(tmp_path / "rows.txt", Settings(seed=9))
    assert [(row.settings.prompt, row.settings.seed, row.where) for row in by_text] == [
        ("a red circle turns", 9, "rows.txt line 1"), ("a blue star bounces", 9, "rows.txt line 3")]


def test_a_row_wins_over_the_command_line_and_a_preset_over_its_options(tmp_path):
    defaults = Settings(cfg=3, options={"gamma_go": [2, 2], "image_prompt": "ink"})
    row, preset = read_rows(rows_file(tmp_path, [
        {"prompt": "x", "z_percent": 50}, {"prompt": "x", "preset": "paper", "rho": 3}]), defaults)
    assert row.settings.options.z_percent == 50 and row.settings.options.gamma_go == 2 and row.settings.cfg == 3
    assert preset.settings.options.gamma_go == 4 and preset.settings.options.rho == 3
    assert preset.settings.cfg == 7.5 and preset.settings.options.image_prompt == "ink"


GOOD = '{"prompt": "a red circle turns"}\n'


@pytest.mark.parametrize("line, words", [
    ('{"prompt": "x", "steps": 0}', ["steps = 0", "from 1 to 1000"]),
    ('{"prompt": "x", "gamma_go": 99}', ["gamma_go = 99", "0 to 30"]),
    ('{"prompt": "x", "gama_go": 4}', ["gama_go", "gamma_go"]),
    ('{"prompt": "x", "options": {"z_percent": 120}}', ["z_percent = 120"]),
    ('{"prompt": "x", "options": 3}', ["options = 3"]),
    ('{"prompt": " "}', ["prompt", "what the clip shows"]),
    ('{"seed": 3}', ["prompt"]),
    ('{"prompt": "x", "preset": "best"}', ["preset = 'best'", "paper"]),
    ('{"prompt": "x", "count": 0}', ["count = 0", "from 1 to"]),
    ('{"prompt": "x", "count": true}', ["count = True"]),
    ('{"prompt": "x", "count": 3, "seed": 9223372036854775805}', ["count = 3"]),
    ('{"prompt": "x", "id": "../x"}', ["id = '../x'"]),
    ('{"prompt": "x", "id": "/etc/x"}', ["id = '/etc/x'"]),
    ('{"prompt": "x", "id": "a\\u0000b"}', ["id = "]),
    ('{"prompt": "x", "id": "%s"}' % ("y" * 231), ["id = ", "230 bytes"]),
    ('{"prompt": "a kite <lora:x:1>"}', ["--lora FILE:WEIGHT"]),
    ('{"prompt": "x", "checkpoint": "nothing.safetensors"}', ["nothing.safetensors"]),
    ('{"prompt": "x", "frames": 99, "context": 64}', ["context = 64 is too much for a clip of 99 frames"]),
    ('{"prompt": "x", "loop": "animatediff", "gamma_go": 3}', ["equal gammas"]),
    ('{"prompt": "x", "size": "20x20"}', ["size"]),
    ('["x"]', ["no JSON object"]),
    ("{", ["no JSON"]),
])
def test_a_bad_row_is_named_before_anything_is_loaded(capsys, tmp_path, monkeypatch, line, words):
    monkeypatch.setattr(txt2vid, "load", None)
    (tmp_path / "rows.jsonl").write_text(GOOD + "\n" + line + "\n")
    code, out, error = batch(capsys, tmp_path / "rows.jsonl", "--out", tmp_path / "out", *SMALL)
    assert code == 2 and out == "" and not (tmp_path / "out").exists()
    said, last = error.splitlines()
    assert said.startswith("ivmixed: rows.jsonl line 3: ") and last.endswith("1 row is refused, nothing was made")
    assert all(word in said for word in words), said


@pytest.mark.parametrize("name, text, words", [
    ("rows.csv", "prompt,steps\nx,1,2\n", "line 2: has 3 cells"), ("rows.csv", "prompt,prompt\nx,y\n", "a name twice"),
    ("rows.csv", 'prompt\n"x\n', "no CSV"), ("rows.txt", "\n", "asks for 0 clips"), ("rows.ods", "x", "unknown ending"),
    ("rows.jsonl", '{"prompt": "x", "count": 99999}\n' * 2, "asks for 199998 clips"),
    ("rows.jsonl", '{"prompt": "x", "id": "a"}\n' * 2, "line 2: id = 'a.mp4' is not allowed; allowed: another name"),
    ("rows.txt", "a red circle turns\n" * 2, "line 2: id = "),
])
def test_bad_files_are_refused(capsys, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    code, _, error = batch(capsys, tmp_path / name, "--out", tmp_path / "out", *SMALL)
    assert code == 2 and words in error and not (tmp_path / "out").exists()


def test_all_bad_rows_are_named(tmp_path):
    bad = rows_file(tmp_path, [{"prompt": "x", "steps": k} for k in (0, 5, -1)])
    with pytest.raises(RowsError) as caught:
        read_rows(bad, Settings())
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["rows.jsonl line 1", "rows.jsonl line 3"]


# --- jobs

def test_shards_are_disjoint_and_whole(tmp_path):
    work = prepared(tmp_path, [{"prompt": f"{k} kites", "count": 3} for k in range(5)])
    for n in (1, 4, 20):
        parts = [jobs.shard(work, f"{i}/{n}") for i in range(1, n + 1)]
        clips = [job.clip for part in parts for job in part]
        assert sorted(clips) == sorted(job.clip for job in work) and len(set(clips)) == 15
    for wrong in ("0/3", "4/3", "1", "1/x", "-1/2"):
        with pytest.raises(OptionError, match="shard"):
            jobs.shard(work, wrong)


def test_an_identity_is_of_settings_and_model_files(tmp_path):
    one, other = prepared(tmp_path, [{"prompt": "x"}, {"prompt": "x", "gamma_go": 3}])
    assert one.identity != other.identity == prepared(tmp_path, [{"prompt": "x", "gamma_go": 3}])[0].identity
    model = Path(tiny.saved(tmp_path / "video", tiny.animatediff()))
    mine = Settings(checkpoint=model, prompt="x", seed=1)
    before = jobs.identity_of(mine)
    jobs._stats.cache_clear()
    assert jobs.identity_of(mine) == before
    weights = next(model.rglob("unet/*.safetensors"))
    os.utime(weights, (1, 1))
    jobs._stats.cache_clear()
    assert jobs.identity_of(mine) != before


def test_clips_of_the_same_models_follow_each_other(tmp_path):
    model = tiny.saved(tmp_path / "video", tiny.animatediff())
    rows = [{"prompt": "a"}, {"prompt": "b", "checkpoint": str(model)}, {"prompt": "c"},
            {"prompt": "d", "checkpoint": str(model)}]
    assert [job.settings.prompt for job in prepared(tmp_path, rows)] == ["a", "c", "b", "d"]


# --- a run

def test_a_batch_is_made_once_and_shown(capsys, tmp_path):
    out = tmp_path / "out"
    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "seed": 3, "id": "a/circle"},
                                {"prompt": "<script>alert('&')</script>", "preset": "plain", "format": "x"}])
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 2  # "format" is no setting
    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "seed": 3, "id": "a/circle"},
                                {"prompt": "<script>alert('&')</script>", "preset": "plain"}])
    code, said, _ = batch(capsys, rows, "--out", out, *SMALL, "--plan", "--json")
    assert code == 0 and not out.exists()
    assert json.loads(said) == {"clips": 2, "there": 0, "evaluations": 6, "workers": 1, "seconds": None}
    code, said, _ = batch(capsys, rows, "--out", out, *SMALL, "--json")
    summary = json.loads(said)
    assert code == 0 and (summary["clips"], summary["there"], summary["made"], summary["failed"]) == (2, 2, 2, 0)
    assert not (out / "failures.jsonl").exists()
    no_leftovers(out)

    sidecar = json.loads((out / "a" / "circle.mp4.json").read_text())
    assert sidecar["batch"]["clip"] == "a/circle.mp4" and sidecar["batch"]["evaluations"] == 4
    assert Settings.from_dict(read_settings(out / "a" / "circle.mp4")).seed == 3
    assert main(["txt2vid", "--prompt", "a red circle turns", "--seed", "3", *SMALL,
                 "--out", str(tmp_path / "alone.mp4")]) == 0
    assert (tmp_path / "alone.mp4").read_bytes() == (out / "a" / "circle.mp4").read_bytes()

    page = (out / "index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and not re.search(r"https?:", page)
    shown = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: shown.append(dict(attributes)["src"]) if tag == "video" else None
    parser.feed(page)
    assert len(shown) == 2 and all((out / name).is_file() for name in shown)

    before = {name: os.stat(out / name).st_mtime_ns for name in files(out)}
    capsys.readouterr()
    code, said, _ = batch(capsys, rows, "--out", out, *SMALL)
    assert code == 0 and "2 of 2 clips are there, 0 made now" in said
    assert {name: os.stat(out / name).st_mtime_ns for name in files(out)} == before
    more = rows_file(tmp_path, [{"prompt": "a", "count": 4}], "more.jsonl")
    code, said, _ = batch(capsys, more, "--out", out, *SMALL, "--plan")
    assert code == 0 and "4 clips, 0 of them there, 16 evaluations left, 1 at once: about" in said

    # the same name with other settings
    code, _, error = batch(capsys, rows, "--out", out, *SMALL, "--gamma-go", "3")
    assert code == 2 and "circle.mp4 is there, and was made with gamma_go = 4.0, not 3.0" in error


def test_clips_of_one_name_stand_together_on_the_page(tmp_path):
    records = [{"ivmixed": {}, "batch": {"clip": clip}} for clip in ("iv-mixed/0.mp4", "iv-mixed/1.mp4", "plain/0.mp4")]
    page = write_index(tmp_path, records).read_text()
    assert re.findall('src="([^"]+)"', page) == ["iv-mixed/0.mp4", "plain/0.mp4", "iv-mixed/1.mp4"]


def test_a_clip_without_its_sidecar_is_finished_and_a_sidecar_alone_is_no_clip(capsys, tmp_path):
    out = tmp_path / "out"
    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "one"}])
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 0
    whole = files(out)
    (out / "one.mp4.json").unlink()
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 0
    assert files(out) == whole
    (out / "one.mp4").unlink()
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 0
    assert files(out) == whole
    (out / "one.mp4.json").unlink()
    (out / "one.mp4").write_bytes(b"somebody's")
    code, _, error = batch(capsys, rows, "--out", out, *SMALL)
    assert code == 2 and "is not of this batch" in error and (out / "one.mp4").read_bytes() == b"somebody's"


def test_a_disk_without_links_has_each_clip_once_too(capsys, tmp_path, monkeypatch):
    def link(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "one"}])
    assert batch(capsys, rows, "--out", tmp_path / "linked", *SMALL)[0] == 0
    monkeypatch.setattr(os, "link", link)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one.mp4").touch()  # the name was taken by a run that was killed then
    assert batch(capsys, rows, "--out", tmp_path / "out", *SMALL)[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "linked")


def test_what_a_row_cannot_do_is_listed_and_the_others_are_made(capsys, tmp_path, monkeypatch):
    def generate(settings, *args, **kwargs):
        if settings.seed == 1:
            raise RuntimeError("CPU out of memory")
        if settings.seed == 2:
            raise OptionError("size", (8, 8), "a larger one")
        return original(settings, *args, **kwargs)

    original = txt2vid.generate
    monkeypatch.setattr(txt2vid, "generate", generate)
    rows, out = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "x", "count": 4}]), tmp_path / "out"
    code, said, _ = batch(capsys, rows, "--out", out, *SMALL)
    assert code == 1 and "2 of 4 clips are there, 2 made now, 2 failed (see " in said
    first, second = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert first["clip"] == "x-1.mp4" and "out of memory" in first["message"] and first["tries"] == 1
    assert second == {"row": "rows.jsonl line 1", "clip": "x-2.mp4", "field": "size", "tries": 1,
                      "message": "size = (8, 8) is not allowed; allowed: a larger one"}
    monkeypatch.setattr(txt2vid, "generate", original)
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 0 and not (out / "failures.jsonl").exists()


@pytest.mark.parametrize("ending", jobs.ENDINGS)
def test_the_same_frames_make_the_same_file(tmp_path, ending):
    """Whatever lies in memory: x264 was seen to make others of clips 64 and 320 pixels wide."""
    clip = as_frames(render(random_scene(torch.Generator().manual_seed(1), "a white circle bounces"), 12))
    kept = []
    for k in range(12):
        write_clip(tmp_path / f"{k}.{ending}", clip, 8, {})
        kept.append(np.random.default_rng(k).random(100_000))
    assert len({(tmp_path / f"{k}.{ending}").read_bytes() for k in range(12)}) == 1


# --- disks

@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 KiB where this may be mounted; and what makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True).returncode:
        yield folder, None
        return
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_no_finished_clip_and_ends_the_run(capsys, tmp_path, monkeypatch, small_disk):
    out, mounted = small_disk
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "x", "count": 3}])
    if mounted:
        (out / "other").write_bytes(bytes(40 << 10))
        code, said, error = batch(capsys, rows, "--out", out, *SMALL)
        saved = tmp_path / "cwd" / "x-0.mp4"
        assert "No space left" in error + said and f"the clip is in {saved} instead" in said
        assert len(read_clip(saved)[0]) == 2
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            code, said, error = batch(capsys, rows, "--out", out, *SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and "0 of 3 clips are there, 0 made now, 1 failed" in said and "2 not tried" in said
    assert not list(out.glob("x-*"))
    no_leftovers(out)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(capsys, tmp_path, monkeypatch, small_disk):
    monkeypatch.setattr(txt2vid, "load", None)
    out, read_only = small_disk
    if read_only:
        read_only()
    elif os.geteuid() == 0:
        pytest.skip("root may write everywhere, and nothing can be mounted")
    else:
        out.chmod(0o500)
    for folder in (out, out / "new"):
        code, _, error = batch(capsys, rows_file(tmp_path, [{"prompt": "x"}]), "--out", folder, *SMALL)
        assert code == 2 and error.count("\n") == 1 and str(out) in error
    (tmp_path / "file").touch()
    code, _, error = batch(capsys, rows_file(tmp_path, [{"prompt": "x"}]), "--out", tmp_path / "file", *SMALL)
    assert code == 2 and error.count("\n") == 1 and str(tmp_path / "file") in error


# --- processes

def started(code, *args):
    # as in a terminal, also where the tests run in the background and Ctrl-C is ignored
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(condition, process=None, seconds=600):
    """``process``: what brings it about; it does not end before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


COUNTED = """
import sys
from ivmixed.standalone import cli, txt2vid

def generate(settings, *args, **more):
    with open(sys.argv[1], "a") as file:
        print(settings.seed, file=file)
    return original(settings, *args, **more)

original, txt2vid.generate = txt2vid.generate, generate
sys.exit(cli.main(sys.argv[2:]))
"""


def test_two_drivers_make_every_clip_once_and_ctrl_c_stops_one(capsys, tmp_path, monkeypatch):
    """One in a process of its own, which takes seconds to start, and one here from its first clip on. Neither can end
    before the one there is stopped: the last clip is held until then."""
    rows, out = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "x", "count": 6}]), tmp_path / "out"
    begun, generate = [], txt2vid.generate
    monkeypatch.setattr(txt2vid, "generate", lambda settings, *args, **more: (
        begun.append(settings.seed), generate(settings, *args, **more))[1])
    with ThreadPoolExecutor() as threads, held(out, prepared(tmp_path, rows)[-1]) as last:
        driver = started(COUNTED, tmp_path / "there", "batch", rows, "--out", out, *SMALL)
        wait_for((out / "x-0.mp4.json").exists, driver)

        def stop():
            with last:
                wait_for(lambda: len(list(out.glob("x-*.json"))) == 5, driver)
                driver.send_signal(signal.SIGINT)
                return driver.communicate(timeout=600)[1]

        stopped = threads.submit(stop)
        code, said, _ = batch(capsys, rows, "--out", out, *SMALL)
    assert stopped.result() == "ivmixed: stopped; 5 of 6 clips are there, and the same command makes the others\n"
    assert driver.returncode == 130
    assert code == 0 and "6 of 6 clips are there" in said
    begun += map(int, (tmp_path / "there").read_text().split())
    assert sorted(begun) == list(range(6))  # nothing was computed in vain
    assert sorted(files(out)) == sorted(f"x-{k}.mp4{end}" for k in range(6) for end in ("", ".json"))
    no_leftovers(out)


@contextmanager
def held(out, job):
    """The clip of a job is being made by another run, here; yields what ends that."""
    store.make_folders(out, [job])
    with ExitStack() as holding:
        assert holding.enter_context(store.claimed(out, job, wait=False))
        yield holding


HOLDER = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(1); input()"


def test_a_clip_that_another_run_is_making_comes_last_and_is_made_if_that_run_ends(capsys, tmp_path, monkeypatch):
    rows, out = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "x", "count": 3}]), tmp_path / "out"
    first, second, _ = prepared(tmp_path, rows)
    locks = []
    for job in (first, second):
        with held(out, job):
            locks += [file for file in out.glob(".*") if file not in locks]
    locks[1].touch()  # of a run that was killed: its lock is gone, its file is not
    other = subprocess.Popen([sys.executable, "-uc", HOLDER, locks[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()

    def end():
        try:
            wait_for(lambda: all((out / f"x-{k}.mp4.json").exists() for k in (1, 2)), other)
            with store.claimed(out, first, wait=False) as mine:
                return mine, (out / "x-0.mp4").exists()
        finally:
            other.kill()
            other.communicate()

    loaded, load = [], txt2vid.load
    monkeypatch.setattr(txt2vid, "load", lambda *args, **more: (loaded.append(1), load(*args, **more))[1])
    with ThreadPoolExecutor() as threads:
        ended = threads.submit(end)
        code, said, error = batch(capsys, rows, "--out", out, *SMALL)
    assert ended.result() == (False, False)
    assert code == 0 and "3 of 3 clips are there, 3 made now" in said, error
    assert len(loaded) == 1  # models stay loaded
    no_leftovers(out)


def test_a_disk_without_locks_has_each_clip_once_too(capsys, tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    rows = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "y" * LONGEST_NAME}])
    assert batch(capsys, rows, "--out", tmp_path / "locked", *SMALL)[0] == 0
    monkeypatch.setattr(store.fcntl, "flock", flock)
    assert batch(capsys, rows, "--out", tmp_path / "out", *SMALL)[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "locked")
    no_leftovers(tmp_path / "out")


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(capsys, tmp_path, monkeypatch):
    """In the middle of the second clip; what comes of a signal is above."""
    def press(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    generate = txt2vid.generate
    monkeypatch.setattr(txt2vid, "generate", lambda settings, *args, **more: generate(
        settings, *args, callback_on_step_end=press if settings.seed else None, **more))
    rows, out = rows_file(tmp_path, [{"prompt": "a red circle turns", "id": "x", "count": 3}]), tmp_path / "out"
    code, _, error = batch(capsys, rows, "--out", out, *SMALL)
    assert code == 130
    assert error == "ivmixed: stopped; 1 of 3 clips are there, and the same command makes the others\n"
    no_leftovers(out)
    monkeypatch.setattr(txt2vid, "generate", generate)
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = out / f"{store.HIDDEN}{store._host()}-{killed.pid}-abc"  # as if that had been killed while it wrote
    left.mkdir()
    (left / "x-1.mp4").write_bytes(b"half")
    code, said, _ = batch(capsys, rows, "--out", out, *SMALL)
    assert code == 0 and "3 of 3 clips are there, 2 made now" in said
    no_leftovers(out)


def test_what_another_process_is_writing_stays(tmp_path):
    mine = [tmp_path / f"{store.HIDDEN}{store._host()}-{os.getpid()}-abc", tmp_path / f"{store.HIDDEN}elsewhere-1-abc"]
    for folder in mine:
        folder.mkdir()
    store.sweep(tmp_path)
    assert all(folder.exists() for folder in mine)
    os.utime(mine[1], (1, 1))
    store.sweep(tmp_path)
    assert mine[0].exists() and not mine[1].exists()


def test_progress_says_what_is_known():
    progress = Progress(4, 400, 2, quiet=True)
    assert progress.line(3) == "0 of 4 clips, 2 workers"
    progress.update(100, made=False)
    progress.update(100, made=True)
    assert progress.line(50) == "2 of 4 clips, 2 workers, 2 evaluations/s, 100 s left".replace("100 s", "2 min")
    progress.update(100, made=False, failed=True)
    assert progress.line(50) == "3 of 4 clips, 1 failed, 2 workers, 2 evaluations/s, 50 s left"
