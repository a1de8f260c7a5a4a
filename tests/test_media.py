"""Clips to files and back: pixels, timing, settings, and nothing half-written, in every format."""
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ivmixed.standalone.box.scenes import random_scene, render
from ivmixed.standalone.media import (
    FASTEST,
    MediaError,
    as_frames,
    check_out,
    clips_at,
    contact_sheet,
    read_clip,
    read_settings,
    side_by_side,
    write_clip,
    write_picture,
)

LOSSLESS = (".webp", ".png")
SETTINGS = {
    "prompt": "ein \"rötlicher\" Kreis 赤い円 😀\n" + "moves right, " * 60, "cfg": 7.5, "gamma_go": [6, 2], "vae": None,
}

every_format = pytest.mark.parametrize("ending", FASTEST)


def scene(seed, frames=9):
    return as_frames(render(random_scene(torch.Generator().manual_seed(seed)), frames))


def error(read, written):
    """Root mean square in grey levels."""
    return np.sqrt(np.mean((read.astype(float) - written) ** 2))


class Interrupted(Sequence):
    """A clip at whose middle frame Ctrl-C comes."""

    def __init__(self, clip, exception):
        self.clip, self.exception = clip, exception

    def __len__(self):
        return len(self.clip)

    def __getitem__(self, k):
        if k == len(self.clip) // 2:
            raise self.exception
        return self.clip[k]


# --- what is written is read back

@every_format
@pytest.mark.parametrize("seed", range(3))
def test_pixels_count_and_rate_come_back(tmp_path, ending, seed):
    clip = scene(seed)
    write_clip(tmp_path / f"a{ending}", clip, 8, {})
    read, fps = read_clip(tmp_path / f"a{ending}")
    assert read.shape == clip.shape and read.dtype == np.uint8 and fps == 8
    if ending in LOSSLESS:
        assert np.array_equal(read, clip)
    else:
        # 4:2:0 halves the colour's resolution, so a coloured edge of one pixel is off, but luma hardly is
        assert error(read, clip) < (3 if ending == ".gif" else 8)
        luma = [0.2126, 0.7152, 0.0722]
        assert error(read @ luma, clip @ luma) < 3


@every_format
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 40, 120)])
def test_flat_colours_keep_their_value(tmp_path, ending, colour):
    clip = np.empty((3, 16, 32, 3), np.uint8)
    clip[:] = colour
    write_clip(tmp_path / f"a{ending}", clip, 12, {})
    read, _ = read_clip(tmp_path / f"a{ending}")
    assert np.abs(read.astype(int) - clip).max() <= (0 if ending in (*LOSSLESS, ".gif") else 2)


@every_format
@pytest.mark.parametrize("count", [1, 7])
def test_stills_keep_their_frames(tmp_path, ending, count):
    """GIF and WebP store a repeated frame once, and show it for longer."""
    clip = scene(1, 3)[:1].repeat(count, axis=0)
    write_clip(tmp_path / f"a{ending}", clip, 8, {})
    read, fps = read_clip(tmp_path / f"a{ending}")
    assert read.shape == clip.shape and fps == 8


@every_format
@pytest.mark.parametrize("fps", [0.5, 23.976, 30])
def test_rates(tmp_path, ending, fps):
    write_clip(tmp_path / f"a{ending}", scene(0, 4), fps, {})
    assert read_clip(tmp_path / f"a{ending}")[1] == pytest.approx(fps, rel=1e-5)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_animations_loop_and_last_as_long_as_they_should(tmp_path, ending):
    clip = scene(2, 12)
    write_clip(tmp_path / f"a{ending}", clip, 8, {})
    delays = []
    with Image.open(tmp_path / f"a{ending}") as image:
        assert image.info["loop"] == 0 and image.n_frames == len(clip)
        for k in range(image.n_frames):
            image.seek(k)
            image.load()
            delays.append(image.info["duration"])
    assert sum(delays) == 1500
    assert set(delays) == ({120, 130} if ending == ".gif" else {125})


def test_what_stands_still_does_not_flicker_in_a_gif(tmp_path):
    clip = scene(3)
    still = (clip == clip[0]).all(axis=(0, 3))
    assert 0.3 < still.mean() < 1
    write_clip(tmp_path / "a.gif", clip, 8, {})
    read, _ = read_clip(tmp_path / "a.gif")
    assert (read == read[0])[:, still].all()


def test_a_video_is_what_players_expect(tmp_path):
    import av

    for ending, name in ((".mp4", "h264"), (".webm", "vp9")):
        write_clip(tmp_path / f"a{ending}", scene(0), 8, {})
        with av.open(str(tmp_path / f"a{ending}")) as container:
            codec = container.streams.video[0].codec_context
            assert (codec.name, codec.pix_fmt, codec.colorspace) == (name, "yuv420p", 1)  # 1: BT.709
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it is loaded


def test_foreign_animations_are_read(tmp_path):
    frames = [Image.fromarray(frame) for frame in scene(0, 4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200, comment=b"made elsewhere")
    read, fps = read_clip(tmp_path / "a.gif")
    assert len(read) == 4 and fps == pytest.approx(5)


def test_a_folder_of_png_frames_is_a_clip_whoever_wrote_them(tmp_path):
    clip = scene(3, 11)
    for k, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"{k:05d}.png")
    assert clips_at(tmp_path) == [tmp_path]
    frames, fps = read_clip(tmp_path)
    assert (frames == clip).all() and fps == 0
    (tmp_path / "own").mkdir()
    write_clip(tmp_path / "own" / "clip.png", clip, 8, SETTINGS)
    assert read_clip(tmp_path / "own")[1] == 8 and read_settings(tmp_path / "own") == SETTINGS


def test_the_clips_in_a_folder(tmp_path):
    for name in ("b.gif", "a.webp"):
        write_clip(tmp_path / name, scene(1, 2), 8, {})
    (tmp_path / "notes.txt").write_text("")
    assert clips_at(tmp_path) == [tmp_path / "a.webp", tmp_path / "b.gif"]
    assert clips_at(tmp_path / "b.gif") == [tmp_path / "b.gif"]


def test_a_folder_of_no_clip_or_of_mixed_frames_is_refused(tmp_path):
    with pytest.raises(MediaError, match="holds no clip; allowed: a file"):
        clips_at(tmp_path)
    for name in ("a.png", "b.png"):
        write_clip(tmp_path / name, scene(1, 2), 8, {})
    with pytest.raises(MediaError, match="PNG frames of more than one clip"):
        read_clip(tmp_path)
    assert len(read_clip(tmp_path / "a.png")[0]) == 2


def test_one_png_of_several_is_a_clip(tmp_path):
    clip = scene(0, 4)
    write_clip(tmp_path / "a.png", clip, 8, {"n": 1})
    assert np.array_equal(read_clip(tmp_path / "a-0003.png")[0], clip[2:3])
    assert read_settings(tmp_path / "a-0003.png") == {"n": 1}


# --- the settings

@every_format
@pytest.mark.parametrize("stripped", ["", "sidecar", "file"])
def test_settings_come_back(tmp_path, ending, stripped):
    """From either place; "file": a web site has taken the comment out."""
    path = tmp_path / f"a{ending}"
    *files, sidecar = write_clip(path, scene(0, 4), 8, SETTINGS)
    if stripped == "sidecar":
        sidecar.unlink()
    elif stripped == "file":
        for file in files:
            file.unlink()
        Image.new("RGB", (8, 8)).save(path) if ending not in (".mp4", ".webm") else path.write_bytes(b"")
    assert read_settings(path) == SETTINGS
    if stripped != "sidecar":
        assert read_settings(sidecar) == SETTINGS


@every_format
def test_the_file_wins_over_the_sidecar(tmp_path, ending):
    *_, sidecar = write_clip(tmp_path / f"a{ending}", scene(0, 2), 8, {"seed": 1})
    sidecar.write_text('{"ivmixed": {"seed": 2}}')
    assert read_settings(tmp_path / f"a{ending}") == {"seed": 1}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: text[:1] not in "/~\\")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)


@settings(max_examples=40)
@given(values=st.dictionaries(texts, json_values, max_size=5), ending=st.sampled_from(list(FASTEST)))
def test_any_settings_come_back_from_any_format(tmp_path_factory, values, ending):
    folder = tmp_path_factory.mktemp("clip")
    *_, sidecar = write_clip(folder / f"a{ending}", np.zeros((2, 16, 16, 3), np.uint8), 8, values)
    assert read_settings(sidecar) == values
    sidecar.unlink()
    assert read_settings(folder / f"a{ending}") == values


@every_format
def test_very_long_prompts(tmp_path, ending):
    *_, sidecar = write_clip(tmp_path / f"a{ending}", scene(0, 2), 8, {"prompt": "long " * 30_000})
    sidecar.unlink()
    assert read_settings(tmp_path / f"a{ending}") == {"prompt": "long " * 30_000}


def test_the_sidecar_can_be_read_by_people(tmp_path):
    *_, sidecar = write_clip(tmp_path / "a.gif", scene(0, 2), 8, {"prompt": "赤い円 😀"})
    assert sidecar == tmp_path / "a.gif.json"
    assert '    "prompt": "赤い円 😀"\n' in sidecar.read_text("utf-8")
    assert json.loads(sidecar.read_text("utf-8"))["fps"] == 8


def test_no_settings(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", comment=b'{"prompt": "of another program"}')
    with pytest.raises(MediaError, match=r"a\.gif holds no settings of IV-mixed, and there is no a\.gif\.json"):
        read_settings(tmp_path / "a.gif")
    with pytest.raises(MediaError, match=r"there is no file .*b\.mp4\.$"):
        read_settings(tmp_path / "b.mp4")
    with pytest.raises(MediaError, match=r"a\.avi has an unknown ending; allowed: \.gif, \.mp4"):
        read_settings(tmp_path / "a.avi")


# --- whole or not at all

@every_format
@pytest.mark.parametrize("exception", [KeyboardInterrupt(), RuntimeError("of the model")])
def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path, ending, exception):
    write_clip(tmp_path / f"old{ending}", scene(0, 4), 8, {"seed": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for name in ("old", "new"):
        with pytest.raises(type(exception)):
            write_clip(tmp_path / f"{name}{ending}", Interrupted(scene(1, 8), exception), 8, {"seed": 2})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@every_format
def test_a_full_disk_is_one_clear_line(tmp_path, ending):
    with pytest.raises(MediaError) as caught:
        write_clip(tmp_path / f"a{ending}", Interrupted(scene(1, 8), OSError(errno.ENOSPC, "No space left")), 8, {})
    assert str(caught.value) == f"IV-mixed: {tmp_path}/a{ending} could not be written: No space left."
    assert not list(tmp_path.iterdir())


@every_format
def test_a_clip_is_replaced_by_another_of_any_length(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    for seed, count in ((0, 9), (1, 4), (2, 6)):
        clip = scene(seed, count)
        written = write_clip(path, clip, 8, {"seed": seed})
        assert sorted(tmp_path.iterdir()) == sorted(written)
        assert len(read_clip(path)[0]) == count and read_settings(path) == {"seed": seed}


def test_surplus_pictures_of_others_stay(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a-0003.png")
    write_clip(tmp_path / "a.png", scene(0, 2), 8, {})
    assert (tmp_path / "a-0003.png").exists()


def test_settings_that_are_no_json_are_refused_before_writing(tmp_path):
    with pytest.raises(TypeError):
        write_clip(tmp_path / "a.gif", scene(0, 2), 8, {"model": object()})
    assert not list(tmp_path.iterdir())


def test_tensors_and_lists_are_clips_too(tmp_path):
    clip = scene(0, 3)
    for frames in (torch.from_numpy(clip), list(clip), as_frames(torch.from_numpy(clip))):
        write_clip(tmp_path / "a.webp", frames, 8, {})
        assert np.array_equal(read_clip(tmp_path / "a.webp")[0], clip)


def test_as_frames_rounds_and_clips():
    levels = torch.tensor([-1, 0, 0.25, 0.999, 1, 7]).view(2, 3, 1, 1)
    assert as_frames(levels).tolist() == [[[[0, 0, 64]]], [[[255, 255, 255]]]]


# --- what is refused

@pytest.mark.parametrize(("name", "fps", "message"), [
    ("a.avi", 8, r"out = '.*a\.avi' has an unknown ending; allowed: \.gif, \.mp4, \.webm, \.webp, \.png\.$"),
    ("a", 8, "unknown ending"),
    ("none/a.gif", 8, r"out = '.*' is in a folder that does not exist; make '.*none' first\.$"),
    ("folder.gif", 8, r"out = '.*folder\.gif' is a folder; give the name of a file in it\.$"),
    ("a.gif", 60, r"fps = 60 is not allowed for \.gif; allowed: a number from 0\.1 to 50\.$"),
    ("a.mp4", 0, r"fps = 0 is not allowed for \.mp4; allowed: a number from 0\.1 to 240\.$"),
    ("a.mp4", float("nan"), "fps = nan"),
])
def test_check_out_says_what_is_wrong(tmp_path, name, fps, message):
    (tmp_path / "folder.gif").mkdir()
    for refuse in (lambda path: check_out(path, fps), lambda path: write_clip(path, scene(0, 2), fps, {})):
        with pytest.raises(MediaError, match=message) as caught:
            refuse(tmp_path / name)
        assert str(caught.value).startswith("IV-mixed: ") and "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_out_refuses_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="may not write"):
        check_out(tmp_path / "a.gif", 8)


@every_format
def test_check_out_leaves_no_trace(tmp_path, ending):
    check_out(tmp_path / f"a{ending.upper()}", 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_odd_sizes_are_refused_where_they_cannot_be(tmp_path, ending):
    with pytest.raises(MediaError, match=r"size = 17x16 is odd; \.\w+ needs an even width and height\.$"):
        write_clip(tmp_path / f"a{ending}", np.zeros((2, 16, 17, 3), np.uint8), 8, {})
    assert not list(tmp_path.iterdir())


@every_format
@pytest.mark.parametrize("frames", [
    np.zeros((0, 16, 16, 3), np.uint8), np.zeros((2, 16, 16, 3)), np.zeros((2, 16, 16, 4), np.uint8),
    [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)],
], ids=["none", "float", "RGBA", "sizes"])
def test_what_is_no_clip_is_refused(tmp_path, ending, frames):
    with pytest.raises(ValueError, match=r"needs at least one frame|needed: uint8"):
        write_clip(tmp_path / f"a{ending}", frames, 8, {})
    assert not list(tmp_path.iterdir())


@every_format
def test_damaged_files_are_one_clear_line(tmp_path, ending):
    *files, sidecar = write_clip(tmp_path / f"a{ending}", scene(0, 3), 8, {"seed": 1})
    sidecar.unlink()
    data = files[0].read_bytes()
    for keep in (0, 5, 40, len(data) // 2):
        files[0].write_bytes(data[:keep])
        for read in (read_clip, read_settings):
            try:
                read(files[0])  # what was left may be enough
            except MediaError as error:
                assert "\n" not in str(error)
        if keep <= 5:
            with pytest.raises(MediaError, match="cannot be read as a clip"):
                read_clip(files[0])


# --- pictures of several clips

def test_side_by_side_holds_every_pixel_of_every_clip():
    clips = [scene(k, 4) for k in range(3)]
    both = side_by_side(clips, ["plain", "", "IV-mixed " * 20])
    count, height, width, _ = both.shape
    assert (count, width) == (4, 3 * 256 + 2 * 8) and height > 256 and height % 2 == 0
    top = next(k for k in range(height) if np.array_equal(both[0, k, :256:4], clips[0][0, 0]))
    for k, clip in enumerate(clips):
        panel = both[:, top:top + 256, k * 264:k * 264 + 256]
        assert np.array_equal(panel, clip.repeat(4, axis=1).repeat(4, axis=2))
    heads = [both[0, :top, k * 264:k * 264 + 256] for k in range(3)]
    ink = [(head > 128).sum() for head in heads]
    assert ink[1] == 0 < 5 * ink[0] < ink[2]
    assert (heads[2][:, -4:] < 128).all()  # a long caption is broken, not cut


def test_side_by_side_leaves_large_clips_and_evens_odd_ones():
    assert side_by_side([np.zeros((2, 512, 255, 3), np.uint8)], ["x"]).shape[2] == 256


@pytest.mark.parametrize(("clips", "captions"), [([], []), ([scene(0, 2)], []), ([scene(0, 2), scene(0, 3)], ["", ""])])
def test_side_by_side_refuses(clips, captions):
    with pytest.raises(ValueError, match="needed: one shape, and a caption for each"):
        side_by_side(clips, captions)


def test_contact_sheet_shows_frames_from_first_to_last():
    long, short = scene(0, 12), scene(1, 3)
    sheet = np.asarray(contact_sheet([long, short], ["a red circle moves right", "short"], columns=4))
    assert sheet.shape[1] == 4 * 128 + 3 * 8

    def tops(clip):
        small = clip[0, 0].repeat(2, axis=0)
        return [k for k in range(len(sheet)) if np.array_equal(sheet[k, :128], small)]

    for clip, chosen in ((long, (0, 4, 7, 11)), (short, (0, 1, 2))):
        top = tops(clip)[0]
        for column, k in enumerate(chosen):
            shown = sheet[top:top + 128, column * 136:column * 136 + 128]
            assert np.array_equal(shown, clip[k].repeat(2, axis=0).repeat(2, axis=1))
    assert (sheet[:tops(long)[0]] > 128).any()  # a label is above


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    picture = Image.new("RGB", (20, 10), "red")
    write_picture(path, picture)
    with Image.open(path) as found:
        assert found.size == (20, 10) and found.getpixel((3, 3)) == (255, 0, 0)
    before = path.read_bytes()

    def full(self, file, *args, **more):
        Path(file).write_bytes(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(MediaError, match=r"sheet\.png could not be written: No space left on device"):
        write_picture(path, picture)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_contact_sheet_refuses():
    for rows, labels, columns in (([], [], 4), ([scene(0, 2)], [], 4), ([scene(0, 2)], ["x"], 0)):
        with pytest.raises(ValueError, match="needed: a label for each clip"):
            contact_sheet(rows, labels, columns)
