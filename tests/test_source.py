"""Frames of a clip that another begins with: order, rate, number, crop, in every format, and what is refused."""
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from ivmixed.clips import decode
from ivmixed.clips.encode import MediaError
from ivmixed.clips.media import FASTEST, write_clip
from ivmixed.clips.source import crop_and_resize, take


def steps(count, width=32, height=16):
    """Frames that say their number as a grey level: 4, 12, 20, ..."""
    return np.stack([np.full((height, width, 3), 4 + 8 * k, np.uint8) for k in range(count)])


def numbers(taken):
    """The numbers of the frames that were taken, as `steps` made them."""
    return [round((np.asarray(frame).mean() - 4) / 8) for frame in taken.frames]


def video(path, clip, times, *, sound=False, aspect=None, rate=1000):
    """A video whose frames are shown from ``times`` on, in 1/``rate`` s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix == ".mp4" else "libvpx-vp9", rate=rate,
                                      options={"crf": "8", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if sound:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        for picture, time in zip(clip, times):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, 0
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


def turned(path):
    """The MP4 as a phone writes it that was held upright: the matrix of its track turns it by 90 degrees."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[matrix:matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


# --- which frames

@pytest.mark.parametrize("ending", FASTEST)
@pytest.mark.parametrize("fps", [8, 12.5, 30])
def test_at_its_own_rate_every_frame_comes_once(tmp_path, ending, fps):
    write_clip(tmp_path / f"a{ending}", steps(9), fps, {})
    taken = take(tmp_path / f"a{ending}", 9, fps)
    assert numbers(taken) == list(range(9)) and taken.size == (32, 16)
    assert numbers(take(tmp_path / f"a{ending}", None, fps)) == list(range(9))
    assert numbers(take(tmp_path / f"a{ending}", None, fps, most=4)) == list(range(4))


@pytest.mark.parametrize("ending", FASTEST)
def test_other_rates_leave_frames_out_or_repeat_them(tmp_path, ending):
    write_clip(tmp_path / f"a{ending}", steps(24), 24, {})
    assert numbers(take(tmp_path / f"a{ending}", 8, 8)) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert numbers(take(tmp_path / f"a{ending}", 6, 48)) == [0, 0, 1, 1, 2, 2]
    assert numbers(take(tmp_path / f"a{ending}", 3, 10)) == [0, 2, 5]  # 0, 2.4, 4.8: late by at most 10 ms


def test_a_clip_that_is_too_short_is_spread(tmp_path):
    write_clip(tmp_path / "a.mp4", steps(4), 8, {})
    taken = take(tmp_path / "a.mp4", 8, 8)
    assert numbers(taken) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert taken.said == "a.mp4 has 4 frames at 8 a second: the 8 of the clip are spread evenly over it"
    Image.fromarray(steps(1)[0]).save(tmp_path / "still.png")
    assert numbers(take(tmp_path / "still.png", 3, 8)) == [0, 0, 0]
    assert numbers(take(tmp_path / "still.png", None, 8)) == [0]


def test_variable_rates_go_by_the_times(tmp_path):
    path = video(tmp_path / "a.mp4", steps(5), [0, 100, 600, 650, 900])
    assert numbers(take(path, 9, 10)) == [0, 1, 1, 1, 1, 1, 2, 3, 3]


def test_rates_that_are_no_whole_numbers(tmp_path):
    path = video(tmp_path / "a.mp4", steps(24), range(0, 24 * 1001, 1001), rate=30000)
    assert numbers(take(path, 6, 8)) == [0, 4, 7, 11, 15, 19]


@pytest.mark.parametrize("ending", FASTEST)
def test_the_last_frames(tmp_path, ending):
    write_clip(tmp_path / f"a{ending}", steps(24), 24, {})
    assert numbers(take(tmp_path / f"a{ending}", 4, 24, last=True)) == [20, 21, 22, 23]
    assert numbers(take(tmp_path / f"a{ending}", 2, 8, last=True)) == [18, 21]
    assert numbers(take(tmp_path / f"a{ending}", 30, 12, last=True)) == list(range(0, 24, 2))


def test_a_picture_that_is_shown_for_years_is_no_clip_without_end(tmp_path):
    path = video(tmp_path / "a.mp4", steps(3), [0, 100, 2 * 10**7])
    assert numbers(take(path, 3, 10)) == [0, 1, 1]
    with pytest.raises(MediaError, match="too large"):
        take(path, 3, 10, last=True)


def test_a_folder_is_in_the_order_of_numbers(tmp_path):
    for k, frame in enumerate(steps(12)):
        Image.fromarray(frame).save(tmp_path / f"frame{k}.png")
    taken = take(tmp_path, 11, 8)
    assert numbers(taken) == list(range(11)) and "one after another" in taken.said


def test_a_long_video_is_read_no_further_than_needed(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", steps(30), 30, {})
    monkeypatch.setattr(decode, "MAX_FRAMES", 6)
    assert numbers(take(tmp_path / "a.mp4", 2, 8)) == [0, 4]
    with pytest.raises(MediaError, match="too large"):
        take(tmp_path / "a.mp4", 3, 8)


# --- pictures

def test_the_middle_fills_the_frame():
    picture = Image.fromarray(np.concatenate([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)], 1))
    made = np.asarray(crop_and_resize(picture, 8, 8))
    assert made.shape == (8, 8, 3) and (made[:, :4] == 0).all() and (made[:, 4:] == 200).all()
    tall = crop_and_resize(Image.new("RGB", (10, 30), "red"), 20, 20)
    assert tall.size == (20, 20) and set(tall.getdata()) == {(255, 0, 0)}


def test_what_is_transparent_is_white(tmp_path):
    clear = [Image.new("RGBA", (8, 8), colour) for colour in ((0, 255, 0, 0), (255, 0, 0, 255))]
    clear[0].save(tmp_path / "a.webp", save_all=True, append_images=clear[1:], duration=100, lossless=True)
    clear[0].save(tmp_path / "a.gif", save_all=True, append_images=clear[1:], duration=100, disposal=2)
    for name in ("a.webp", "a.gif"):
        first, second = take(tmp_path / name, 2, 10).frames
        assert first.getpixel((4, 4)) == (255, 255, 255) and second.getpixel((4, 4)) == (255, 0, 0)
    first, _ = take(tmp_path / "a.webp", 2, 10, background="#000000").frames
    assert first.getpixel((4, 4)) == (0, 0, 0)


def test_a_video_is_turned_as_it_was_held(tmp_path):
    clip = np.zeros((2, 16, 32, 3), np.uint8)
    clip[:, :8, :16] = 255  # the upper left, which is the upper right when it is turned clockwise
    path = turned(video(tmp_path / "a.mp4", clip, [0, 500]))
    taken = take(path, 1, 8)
    assert taken.size == (16, 32)
    picture = np.asarray(taken.frames[0]).mean(2) > 128
    assert picture[:16, 8:].all() and not picture[16:].any() and not picture[:16, :8].any()


def test_pixels_that_are_not_square_become_it(tmp_path):
    path = video(tmp_path / "a.mp4", steps(2), [0, 500], aspect=Fraction(2, 1))
    assert take(path, 1, 8).size == (64, 16)


def test_sound_is_left_and_said(tmp_path):
    path = video(tmp_path / "a.mp4", steps(2), [0, 500], sound=True)
    assert take(path, 1, 8).said == "1 frames of a.mp4, 8 a second from its start; its sound is left out"


# --- what is refused

@pytest.mark.parametrize("name, data", [
    ("a.mp4", b""), ("a.mp4", b"\0\0\0\x18ftypisom" + bytes(64)), ("a.webm", b"\x1a\x45\xdf\xa3" + bytes(64)),
    ("a.gif", b"GIF89a"), ("a.gif", b"GIF89a" + struct.pack("<HHB", 8, 8, 0) + bytes(2) + b";"), ("a.png", b"x" * 99),
    ("a.webp", b"RIFF\0\0\0\0WEBP"), ("a.mp4", b"#EXTM3U\nhttp://127.0.0.1/"), ("a.txt", b"x")])
def test_what_is_no_clip_is_refused_in_a_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError) as refused:
        take(tmp_path / name, 4, 8)
    assert "\n" not in str(refused.value) and name in str(refused.value)


def test_a_video_that_breaks_off_is_refused_where_it_is_needed(tmp_path):
    whole = video(tmp_path / "a.webm", steps(20, 64, 64), range(0, 2000, 100)).read_bytes()
    (tmp_path / "b.webm").write_bytes(whole[:len(whole) // 4])
    with pytest.raises(MediaError, match=r"cannot be read|holds no picture"):
        take(tmp_path / "b.webm", 20, 10)


def test_only_sound_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 16000, 0
        container.mux(audio.encode(silence))
        container.mux(audio.encode())
    with pytest.raises(MediaError, match="holds no picture"):
        take(tmp_path / "a.mp4", 1, 8)
