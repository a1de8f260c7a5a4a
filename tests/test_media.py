"""Clips to files and back: pixels, timing, settings, and nothing half-written, in every format."""
import errno
import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ivmixed.clips import decode
from ivmixed.clips.encode import WRITERS
from ivmixed.clips.media import (
    FASTEST,
    MediaError,
    as_frames,
    check_out,
    clips_at,
    contact_sheet,
    read,
    read_clip,
    read_settings,
    save_clip,
    side_by_side,
    write_clip,
    write_picture,
)
from ivmixed.standalone.box.scenes import random_scene, render

LOSSLESS = (".webp", ".png")
SETTINGS = {
    "prompt": "ein \"rötlicher\" Kreis 赤い円 😀\n" + "moves right, " * 60, "cfg": 7.5, "gamma_go": [6, 2], "vae": None,
}

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4)
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


# --- the file is the truth

def changed(path, frames, durations):
    """What another program makes of a GIF or WebP: it keeps the comment."""
    with Image.open(path) as image:
        kept = {"comment": image.info["comment"]} if path.suffix == ".gif" else {"exif": image.info["exif"]}
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True, **kept)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
@pytest.mark.parametrize(("kept", "durations", "fps", "said"), [
    (slice(0, 4), [120, 130, 120, 130], 8, "says 8 frames, but the file has 4 frames"),
    (slice(0, 4), [500] * 4, 2, "says 8 frames and 8 frames a second, but the file has 4 frames and 2 frames a second"),
    (slice(0, 8, 2), [250] * 4, 4, "the file has 4 frames and 4 frames a second"),
    (slice(0, 8), [60, 70] * 4, 1000 / 65, "says 8 frames a second, but the file has 15.4"),
    (slice(0, 8), [250] * 8, 4, "the file has 4 frames a second"),
    (slice(0, 8), [0] * 8, 0, "the file has no times"),
    (slice(0, 4), [30, 170, 90, 50], 1000 / 85, "the file has 4 frames and 11.8"),
    (slice(7, 0, -1), [120, 130, 120, 130, 120, 130, 120], 8, "the file has 7 frames"),
])
def test_a_clip_that_another_program_changed_is_read_as_it_is(tmp_path, caplog, ending, kept, durations, fps, said):
    path = tmp_path / f"a{ending}"
    clip = np.random.default_rng(0).integers(0, 2, (8, 16, 16, 1), np.uint8).repeat(3, axis=3) * 255
    write_clip(path, clip, 8, SETTINGS)
    changed(path, clip[kept], durations)
    frames, rate = read_clip(path)
    assert np.array_equal(frames, clip[kept]) and rate == pytest.approx(fps, rel=0.01)
    assert said in caplog.text and said in " ".join(read(path).notes)
    assert read_settings(path) == SETTINGS


runs = st.lists(st.integers(1, 4), min_size=1, max_size=8)


@given(counts=runs, fps=st.sampled_from([0.5, 8, 12.5, 23.976, 30, 50]), ending=st.sampled_from([".gif", ".webp"]))
def test_equal_frames_come_back_as_often_as_they_were_written(tmp_path_factory, counts, fps, ending):
    path = tmp_path_factory.mktemp("clip") / f"a{ending}"
    clip = np.full((len(counts), 4, 4, 3), 255, np.uint8)
    clip[::2] = 0
    clip = clip.repeat(counts, axis=0)
    write_clip(path, clip, fps, {})
    content = read(path)
    assert np.array_equal(content.frames, clip) and content.fps == fps and content.notes == ()


def test_a_cut_leaves_the_frames_that_are_stored_once(tmp_path):
    path = tmp_path / "a.webp"
    clip = scene(0, 7)
    write_clip(path, clip.repeat([2, 1, 3, 1, 1, 1, 1], axis=0), 8, {})
    changed(path, clip[:4], [250, 125, 375, 125])
    frames, fps = read_clip(path)
    assert np.array_equal(frames, clip[:4].repeat([2, 1, 3, 1], axis=0)) and fps == 8


@every_format
def test_a_comment_that_fits_nothing_is_said(tmp_path, ending):
    mark = {"ivmixed": {"seed": 1}, "fps": 4, "frames": 100_000}
    WRITERS[ending](tmp_path / f"a{ending}", iter(scene(0, 3)), 8, mark)
    content = read(tmp_path / f"a{ending}")
    assert len(content.frames) == 3 and content.fps == pytest.approx(4 if ending == ".png" else 8, rel=0.05)
    assert "says frames = 100000, which cannot be" in content.notes[0]
    assert read_settings(tmp_path / f"a{ending}") == {"seed": 1}


def test_png_frames_that_are_missing_mixed_or_foreign(tmp_path):
    clip = scene(0, 12)
    write_clip(tmp_path / "a.png", clip, 8, {"seed": 1})
    (tmp_path / "a-0003.png").unlink()
    for path in (tmp_path / "a.png", tmp_path):
        content = read(path)
        assert np.array_equal(content.frames, np.delete(clip, 2, axis=0))
        assert "says 12 frames, but the file has 11 frames" in content.notes[0]
        assert "nothing between a-0002.png and a-0004.png" in content.notes[1]
    write_clip(tmp_path / "b.png", clip[:1], 8, {"seed": 2})
    (tmp_path / "b-0001.png").rename(tmp_path / "a-0003.png")
    assert "the comment of a-0003.png is not that of a-0001.png" in " ".join(read(tmp_path / "a.png").notes)
    Image.new("RGB", (8, 8)).save(tmp_path / "a-0004.png")
    with pytest.raises(MediaError, match=r"64x64 pixels, a-0004\.png has 8x8; the frames of a clip are of one size"):
        read_clip(tmp_path / "a.png")


def test_frames_of_others_are_in_the_order_of_their_numbers(tmp_path):
    clip = scene(0, 12)
    for k, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"frame{k}.png")
    assert np.array_equal(read_clip(tmp_path)[0], clip)


def test_a_file_is_what_its_first_bytes_say(tmp_path):
    write_clip(tmp_path / "a.webm", scene(0, 3), 8, {"seed": 1})
    (tmp_path / "a.webm").rename(tmp_path / "a.mp4")
    assert len(read_clip(tmp_path / "a.mp4")[0]) == 3 and read_settings(tmp_path / "a.mp4") == {"seed": 1}
    for name, text in (("b.png", "%!PS-Adobe-3.0 EPSF-3.0\n"), ("c.mp4", "#EXTM3U\n#EXTINF:1,\n/etc/hostname\n"),
                       ("d.mp4", "ffconcat version 1.0\nfile a.mp4\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match="cannot be read as a clip"):
            read_clip(tmp_path / name)


# --- what is too much

def gif(width, height, frames, extra=b""):
    """A GIF of a few bytes a frame, each of one pixel on a canvas of any size."""
    frame = b"!\xf9\x04\0\x0a\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + frame * frames + extra + b";"


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("name", "data"), [
    ("frames.gif", gif(8000, 8000, 80)), ("many.gif", gif(16, 16, 20_000)), ("picture.gif", gif(20_000, 20_000, 1)),
    ("grows.gif", gif(16, 16, 1, b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\0")),
    ("picture.png", png(60_000, 60_000)), ("wide.png", png(2**31 - 1, 1)),
])
def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name, data):
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(MediaError, match=r"too large; allowed: \d+ pixels in a frame, \d+ in all frames, \d+ frames"):
        read_clip(tmp_path / name)


def test_work_is_linear_in_a_comment(tmp_path):
    """Pillow takes minutes for these 10 MB."""
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"
    for name, extra in (("a.gif", comment), ("b.gif", bytes(5000))):
        (tmp_path / name).write_bytes(gif(16, 16, 1, extra))
        with pytest.raises(MediaError, match="cannot be read as a clip"):
            read_clip(tmp_path / name)


def test_videos_are_bounded_while_they_are_decoded(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", scene(0, 4), 8, {})
    for name, value in (("MAX_FRAMES", 3), ("MAX_PIXELS", 3 * 64 * 64), ("MAX_PICTURE", 1000)):
        with monkeypatch.context() as patch:
            patch.setattr(decode, name, value)
            with pytest.raises(MediaError, match=r"is too large|cannot be read as a clip"):
                read_clip(tmp_path / "a.mp4")


def test_a_clip_of_a_frame_shown_for_hours_is_not_repeated_without_end(tmp_path):
    mark = {"ivmixed": {}, "fps": 50, "frames": 9_000}
    (tmp_path / "a.gif").write_bytes(gif(3000, 3000, 2))
    first, second = [Image.new("RGB", (1000, 1000), colour) for colour in ("red", "blue")]
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[20, 655_340],
               comment=json.dumps(mark).encode())
    assert len(read_clip(tmp_path / "a.gif")[0]) == 2


wrong_marks = st.fixed_dictionaries({"ivmixed": st.just({"seed": 1}) | json_like}, optional={
    name: json_like | st.sampled_from([0, -1, 1e-300, 1e300, 1e999, float("nan"), 2**70, "8", True, [], None])
    for name in ("fps", "frames", "stored")})


@given(mark=wrong_marks, ending=st.sampled_from([".gif", ".webp", ".png"]))
def test_any_mark_leaves_the_frames(tmp_path_factory, mark, ending):
    path = tmp_path_factory.mktemp("clip") / f"a{ending}"
    clip = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    WRITERS[ending](path, iter(clip), 8, json.dumps(mark))
    content = read(path)
    assert content.frames.shape == clip.shape
    assert ending == ".png" or content.fps == pytest.approx(8, rel=0.05)
    try:
        read_settings(path)
    except MediaError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


@every_format
def test_a_mark_that_is_refused_says_why(tmp_path, ending):
    WRITERS[ending](tmp_path / f"a{ending}", iter(scene(0, 2)), 8, '{"ivmixed": {"cfg": NaN}}')
    with pytest.raises(MediaError, match=r"settings of IV-mixed \(its comment holds NaN, which is no number\)"):
        read_settings(tmp_path / f"a{ending}")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A small file of every format, by its ending."""
    folder = tmp_path_factory.mktemp("samples")
    return {ending: write_clip(folder / f"a{ending}", scene(0, 3)[:, 24:40, 24:40], 8, {"seed": 1})[0].read_bytes()
            for ending in FASTEST}


@given(data=st.data(), ending=st.sampled_from(list(FASTEST)))
def test_damage_is_one_line_or_no_harm(tmp_path_factory, samples, data, ending):
    """Cut off anywhere, and any bytes replaced; what the first bytes say is changed, too."""
    damaged = bytearray(samples[ending])
    places = st.integers(0, len(damaged) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places | st.integers(0, 60), st.integers(0, 255)), max_size=8)):
        damaged[min(place, len(damaged) - 1)] = byte
    path = tmp_path_factory.mktemp("clip") / f"a{ending}"
    path.write_bytes(damaged[:data.draw(st.just(len(damaged)) | places)])
    for reads in (read_clip, read_settings):
        try:
            reads(path)
        except MediaError as error:
            assert "\n" not in str(error) and str(error).startswith("IV-mixed: ")


@pytest.mark.parametrize("path", ["x" * 300 + ".gif", "y" * 5000, "a\0.gif", "a\udcff.gif", "/dev/zero", ".", "/"])
def test_names_of_no_clip_are_one_line(path):
    for reads in (read_clip, read_settings, clips_at):
        with pytest.raises(MediaError) as caught:
            reads(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(("text", "said"), [
    ("[" * 200_000, "is nested too deep"), ('{"ivmixed": {"cfg": 1e400}}', "too large"), ("{", "is no JSON"),
    ("[]", "is no JSON object"), ('{"ivmixed": []}', "holds no settings"), ('{"a": "' + "x" * 2**20 + '"}', "too long"),
    ('{"ivmixed": {"prompt": "\\ud800"}}', "half a surrogate pair"),
])
def test_sidecars_are_read_as_those_of_strangers(tmp_path, text, said):
    (tmp_path / "a.gif.json").write_text(text)
    with pytest.raises(MediaError, match=said) as caught:
        read_settings(tmp_path / "a.gif.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


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


@every_format
def test_comments_have_no_paths_of_the_disk_and_sidecars_bring_them(tmp_path, ending):
    given = {"checkpoint": "/home/ann/models/sd15.safetensors", "vae": "C:\\Users\\ann\\vae.pt", "motion_module": "box",
             "image_lora": [["/home/ann/kite.safetensors", 0.5]], "prompt": "/imagine a kite", "options": {"x": "~/y"}}
    named = {**given, "checkpoint": "sd15.safetensors", "vae": "vae.pt", "image_lora": [["kite.safetensors", 0.5]],
             "options": {"x": "y"}}
    *files, sidecar = write_clip(tmp_path / f"a{ending}", scene(0, 2), 8, given)
    assert not any(word in file.read_bytes() for file in files for word in (b"ann", "ann".encode("utf-16-be")))
    assert read_settings(tmp_path / f"a{ending}") == read_settings(files[0]) == read_settings(sidecar) == given
    sidecar.unlink()
    assert read_settings(tmp_path / f"a{ending}") == named


def test_a_sidecar_of_another_clip_is_told(tmp_path, caplog):
    for name, frames, seed in (("a.gif", 3, 1), ("b.gif", 4, 2)):
        write_clip(tmp_path / name, scene(seed, frames), 8, {"seed": seed})
    (tmp_path / "b.gif.json").replace(tmp_path / "a.gif.json")
    assert read_settings(tmp_path / "a.gif") == {"seed": 1}
    assert "a.gif.json is of another clip than a.gif: the settings in the clip itself are taken" in caplog.text
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data.replace(b'"ivmixed"', b'"another"'))
    assert read_settings(tmp_path / "a.gif") == {"seed": 2}
    assert "a.gif.json may be of another clip than a.gif: it says 4 frames, but the file has 3 frames" in caplog.text


@pytest.mark.parametrize("wrong", [{"cfg": float("inf")}, {"seed": 2**70}, {"prompt": "x" * 2**20},
                                   {"deep": json.loads("[" * 50 + "]" * 50)}])
def test_settings_that_could_not_be_read_again_are_refused(tmp_path, wrong):
    for refuse in (lambda: check_out(tmp_path / "a.gif", 8, wrong),
                   lambda: write_clip(tmp_path / "a.gif", scene(0, 2), 8, wrong)):
        with pytest.raises(MediaError, match="the settings cannot be kept in the clip"):
            refuse()
    assert not list(tmp_path.iterdir())


@every_format
def test_half_a_surrogate_pair_is_replaced(tmp_path, ending):
    *_, sidecar = write_clip(tmp_path / f"a{ending}", scene(0, 2), 8, {"prompt": "a \ud800 b \ud83d\ude00"})
    assert read_settings(sidecar) == read_settings(tmp_path / f"a{ending}") == {"prompt": "a \ufffd b \U0001f600"}


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


# --- a finished clip is not lost

def test_a_clip_goes_elsewhere_where_its_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "cwd" / "a.gif.json").write_text("of another")
    clip = scene(0, 3)
    files, problems = save_clip(tmp_path / "gone" / "a.gif", clip, 8, {"seed": 1})
    assert files == [tmp_path / "cwd" / "a-2.gif", tmp_path / "cwd" / "a-2.gif.json"]
    assert "gone" in problems[0] and problems[-1] == f"the clip is in {files[0]} instead"
    assert len(read_clip(files[0])[0]) == 3 and (tmp_path / "cwd" / "a.gif.json").read_text() == "of another"


def test_a_clip_goes_to_the_temporary_files_where_the_current_folder_is_gone(tmp_path, monkeypatch):
    for name in ("cwd", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "cwd").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    files, _ = save_clip(tmp_path / "gone" / "a.gif", scene(0, 3), 8, {})
    assert files[0].parent.parent == tmp_path / "temporary"
    assert len(read_clip(files[0])[0]) == 3
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(MediaError, match=r"could not be saved anywhere: .*gone"):
        save_clip(tmp_path / "gone" / "a.gif", scene(0, 3), 8, {})


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), struct.error("short"), MemoryError()])
def test_a_clip_that_its_format_cannot_hold_becomes_frames(tmp_path, monkeypatch, error):
    def broken(path, *args):
        path.write_bytes(b"GIF89a")
        raise error

    write_clip(tmp_path / "a.png", scene(1, 2), 8, {})
    monkeypatch.setitem(WRITERS, ".gif", broken)
    files, problems = save_clip(tmp_path / "a.gif", scene(0, 3), 8, {})
    assert [file.name for file in files] == [f"a-2-000{k}.png" for k in (1, 2, 3)] + ["a-2.png.json"]
    assert len(problems) == 2 and not list(tmp_path.glob("*.gif")) and len(read_clip(tmp_path / "a.png")[0]) == 2


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path):
    """What is written lies in a hidden folder until it is whole."""
    write_clip(tmp_path / "a.gif", scene(0, 2), 8, {"seed": 1})
    child = os.fork()
    if not child:
        WRITERS[".gif"] = lambda path, *args: (path.write_bytes(b"GIF89a"), os.kill(os.getpid(), 9))
        write_clip(tmp_path / "a.gif", scene(1, 2), 8, {"seed": 2})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert read_settings(tmp_path / "a.gif") == {"seed": 1} and len(read_clip(tmp_path / "a.gif")[0]) == 2


def test_a_link_stays_one(tmp_path):
    (tmp_path / "store").mkdir()
    write_clip(tmp_path / "store" / "b.gif", scene(0, 2), 8, {})
    (tmp_path / "a.gif").symlink_to("store/b.gif")
    write_clip(tmp_path / "a.gif", scene(0, 3), 8, {})
    assert (tmp_path / "a.gif").is_symlink() and len(read_clip(tmp_path / "store" / "b.gif")[0]) == 3


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


@pytest.mark.parametrize(("name", "message"), [
    ("x" * 247 + ".gif", r"is too long, or its sidecar's name"), ("x" * 247 + ".png", "is too long"),
    ("x" * 5000 + ".gif", "is too long"), ("broken.gif", r"cannot be written: broken\.gif is a link to nothing"),
    ("pipe.gif", r"pipe\.gif is no ordinary file"), ("full.gif", r"full\.gif is no ordinary file"),
    ("side.gif", r"side\.gif\.json is a folder"), ("frames.png", r"frames-0001\.png is a folder"),
    *((name, "holds what is no text") for name in ("a\udcff.gif", "a\0.gif", "a\n.gif")),
])
def test_check_out_refuses_names_that_could_not_be_written(tmp_path, name, message):
    (tmp_path / "broken.gif").symlink_to("nowhere")
    (tmp_path / "full.gif").symlink_to("/dev/full")
    os.mkfifo(tmp_path / "pipe.gif")
    for folder in ("side.gif.json", "frames-0001.png"):
        (tmp_path / folder).mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MediaError, match=message) as caught:
        check_out(tmp_path / name, 8)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert sorted(tmp_path.iterdir()) == before
    check_out(tmp_path / ("x" * 246 + ".gif"), 8)


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
        for reads in (read_clip, read_settings):
            try:
                reads(files[0])  # what was left may be enough
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
