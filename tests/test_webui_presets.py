"""The file of the user's presets as a border: damaged, shared, linked, written by two at once."""
import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivmixed.webui.options import OPTIONS, WebUIOptions

from . import hostile
from .host import loaded
from .hostile import assert_in_words

BUILT_IN = ["paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"]
NAMES = [option.name for option in OPTIONS]
GOOD = json.dumps({"options": WebUIOptions(rho=3).to_dict(), "cfg_scale": 6.5})


@pytest.fixture(scope="module")
def host():
    with loaded() as host:
        yield host


@pytest.fixture
def file(host):
    """The file, gone before and after."""
    path = host.module("presets")._store.path
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def holding(file, **entries):
    """The file with JSON texts as entries."""
    file.write_text("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in entries.items()) + "}")


def own(host):
    return [name for name in host.module("presets").every() if name not in BUILT_IN]


def save(host, name, cfg_scale=None):
    host.log.lines.clear()
    return host.module("page.live").save(name, [cfg_scale], host.module("page.panel").values_of(WebUIOptions(rho=2)))[1]


DAMAGED = {
    "a huge CFG scale": '{"options": {}, "cfg_scale": 1' + "0" * 400 + "}",
    "a CFG scale that Python does not print": '{"options": {}, "cfg_scale": 1' + "0" * 5000 + "}",
    "a CFG scale out of range": '{"options": {}, "cfg_scale": 101}',
    "no number as CFG scale": '{"options": {}, "cfg_scale": NaN}',
    "an object as CFG scale": '{"options": {}, "cfg_scale": {}}',
    "true as CFG scale": '{"options": {}, "cfg_scale": true}',
    "deep nesting": "[" * 100_000 + "]" * 100_000,
    "half a surrogate pair": r'{"options": {"image_prompt": "\ud800"}, "cfg_scale": null}',
    "what belongs to a clip": '{"options": {"image_prompt": "a cat"}, "cfg_scale": null}',
    "a loop of its own": '{"options": {}, "cfg_scale": null, "loop": "animatediff"}',
    "no options": '{"options": 3, "cfg_scale": null}',
    "no JSON": "what",
    "a list": "[]",
    "nothing": '{"options": {}}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_entry_hurts_no_other_and_stays_as_it_is(host, file, text):
    holding(file, before=GOOD, bad=text, after=GOOD)
    host.log.lines.clear()
    for _ in range(2):
        assert own(host) == ["before", "after"]
    assert len(host.log.lines) == 1 and host.log.lines[0].startswith("your preset 'bad' is left out: ")
    assert_in_words(host.log.lines[0])
    assert "Saved as mine" in save(host, "mine")
    assert own(host) == ["before", "after", "mine"] and host.log.lines == []
    assert f'"bad": {text}' in file.read_text()
    presets = host.module("presets")
    assert presets.every()["before"].options == WebUIOptions(rho=3) and presets.every()["before"].cfg_scale == 6.5
    presets.delete("bad")
    assert own(host) == ["before", "after", "mine"] and '"bad"' not in file.read_text()


@pytest.mark.parametrize("name", ["\ud800", "", "x" * 61, "a\nb", " a", "paper", "custom", "\u202eevil"])
def test_a_name_that_may_not_be_is_left_out(host, file, name):
    holding(file, **{name: GOOD, "good": GOOD})
    host.log.lines.clear()
    assert own(host) == ["good"] and len(host.log.lines) == 1
    TestClient(host.start()).get("/ivmixed/v1/presets").raise_for_status()
    json.dumps(host.page.get_config_file(), ensure_ascii=False).encode()
    save(host, "mine")
    assert list(json.loads(file.read_text())) == [name, "good", "mine"]
    assert 'role="alert"' in save(host, "\ud800") and 'role="alert"' in save(host, ["a"])


@pytest.mark.parametrize("cfg_scale", [10**400, float("nan"), float("inf"), {}, "7", True, -1, 100.5])
def test_a_cfg_scale_is_checked_before_it_is_saved(host, file, cfg_scale):
    said = save(host, "mine", cfg_scale)
    assert "cfg_scale" in said and "0 to 100" in said and not file.exists()


@pytest.mark.parametrize("text", [
    "[" * 200_000, "", "{", "[]", "\xff", '{"a": 1', '{"a" 1}', '{"a: 1}', '{"a": ]}', "{,}", " " * (2 << 20)])
def test_a_file_that_is_none_is_told_once_and_kept(host, file, text):
    file.write_text(text, "latin-1")
    host.log.lines.clear()
    for _ in range(3):
        assert own(host) == []
    assert len(host.log.lines) == 1 and str(file) in host.log.lines[0]
    assert str(file) in save(host, "mine")
    assert file.read_text("latin-1") == text
    holding(file, good=GOOD)
    assert own(host) == ["good"]


def test_no_file_but_a_pipe(host, file):
    os.mkfifo(file)
    assert own(host) == [] and "is no file" in save(host, "mine")


def test_very_many_presets(host, file):
    presets = host.module("presets")
    holding(file, **{f"p{number}": '{"options": {}, "cfg_scale": 7}' for number in range(2000)})
    host.log.lines.clear()
    assert own(host) == [f"p{number}" for number in range(presets.MOST)]
    assert host.log.lines == ["the first 200 of 2000 presets in your file are read: delete some"]
    assert "delete some first" in save(host, "mine")
    assert "Saved as p1" in save(host, "p1")
    holding(file, **{f"p{number}": "0" for number in range(100)})
    host.log.lines.clear()
    assert own(host) == [] and len(host.log.lines) == presets.SAID + 1


def test_a_file_that_has_not_changed_is_not_read_again(host, file, monkeypatch):
    holding(file, good=GOOD)
    store = host.module("presets")._store
    read = []
    held = store._held
    monkeypatch.setattr(store, "_held", lambda: read.append(1) or held())
    for _ in range(5):
        assert own(host) == ["good"]
    assert len(read) == 1
    save(host, "mine")
    assert own(host) == ["good", "mine"]


def _save_many(module, name):
    for number in range(15):
        module.save(f"{name}{number}", WebUIOptions(), None)


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
def test_processes_do_not_lose_each_others_presets(host, file):
    fork, presets = multiprocessing.get_context("fork"), host.module("presets")
    processes = [fork.Process(target=_save_many, args=(presets, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(own(host)) == sorted(f"{name}{number}" for name in "abc" for number in range(15))
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(file.name)] == [file.name]


def test_a_file_in_use_is_told(host, file, monkeypatch):
    store = host.module("json_store")
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    with store._locked(file.with_name(f"{file.name}.lock")):
        assert "cannot be written (another process is writing it)" in save(host, "mine")
    assert "Saved" in save(host, "mine")


def test_a_link_stays_a_link(host, file, tmp_path):
    target = tmp_path / "shared.json"
    target.write_text("{}")
    target.chmod(0o640)
    file.symlink_to(target)
    save(host, "mine")
    assert file.is_symlink() and Path(os.readlink(file)) == target
    assert list(json.loads(target.read_text())) == own(host) == ["mine"]
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["shared.json"]


@pytest.mark.parametrize("flags", [{"freeze_settings": True}, {"freeze_settings_in_sections": "sd, ivmixed"},
                                   {"freeze_specific_settings": "ivmixed_closed"}])
def test_frozen_settings_are_frozen_presets(host, file, monkeypatch, flags):
    holding(file, mine=GOOD)
    monkeypatch.setattr(host.shared.opts, "ivmixed_closed", "mine")
    before = file.read_text()
    for flag, value in flags.items():
        monkeypatch.setattr(host.shared.cmd_opts, flag, value)
    live = host.module("page.live")
    for said in save(host, "mine"), live.rename("mine", "other")[1], live.delete("mine")[1]:
        assert "presets cannot be changed: the WebUI was started with --freeze-s" in said
    assert file.read_text() == before and own(host) == ["mine"]


@pytest.mark.parametrize("setting, value", [
    ("closed", ["paper"]), ("closed", {}), ("closed", "gone"), ("chunk", "many"), ("chunk", -3), ("chunk", 10**400),
    ("motion_folder", {}), ("log", []), ("measures", "x"),
])
def test_any_value_of_a_setting_leaves_the_extension_alive(host, monkeypatch, setting, value):
    """The host's API takes any."""
    monkeypatch.setattr(host.shared.opts, f"ivmixed_{setting}", value)
    own, presets = host.module("page.settings"), host.module("presets")
    own._set_level()
    assert presets.closed() == "paper" and own.chunk(16) == 16 and own.folder() == ""
    assert own.measures() is True


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.tuples(st.sampled_from(["a", "b", "\ud800", ""]),
                                  hostile.texts(["options", "cfg_scale", *NAMES])), max_size=4),
       whole=st.none() | hostile.texts(["a"]))
def test_any_file_is_read_or_told(host, file, entries, whole):
    holding(file, good=GOOD, **dict(entries))
    if whole is not None:
        file.write_text(whole)
    host.log.lines.clear()
    known = host.module("presets").every()
    assert list(known)[:len(BUILT_IN)] == BUILT_IN
    json.dumps([host.module("presets").to_dict(name, preset) for name, preset in known.items()],
               allow_nan=False, ensure_ascii=False).encode()
    for line in host.log.lines:
        assert_in_words(line)
    before, said = file.read_text(), save(host, "mine")
    if "Saved as mine" in said:
        assert "mine" in own(host) and (whole is not None or "good" in own(host))
    else:
        assert "repair it, or move it away" in said and file.read_text() == before


@pytest.mark.parametrize("text", [
    "{", '{"seconds": 1e999}', '{"seconds": "x", "work": 1, "frames": 1, "width": 1, "height": 1}',
    '{"seconds": 1, "work": 1e-308, "frames": 1e-308, "width": 1e-300, "height": 1}',
    '{"seconds": -1, "work": 1, "frames": 1, "width": 1, "height": 1}',
    '{"seconds": [], "work": {}, "frames": null, "width": 1, "height": 1}',
])
def test_a_noted_time_that_makes_no_sense_is_none(host, text):
    timing, preview = host.module("timing"), host.module("preview")
    timing._store.path.parent.mkdir(exist_ok=True)
    timing._store.path.write_text(text)
    assert timing.estimate(preview.plan_of(WebUIOptions(), 4), 16, 512, 512) is None
    timing._store.path.unlink()
