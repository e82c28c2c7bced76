"""Real mp4s, written and read."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from hmrkit.infer import videos


def picture(number, height=48, width=64):
    """Tells its number by its brightness, and which way is up by a red corner."""
    image = np.full((height, width, 3), 20 * number + 10, np.uint8)
    image[:12, :16] = [250, 0, 0]
    return image


def number_of(image):
    return round((float(image[30:, 30:].mean()) - 10) / 20)


def write(path, num=8, fps=25.0, **size):
    with videos.VideoWriter(path, fps) as writer:
        for number in range(num):
            writer.write(picture(number, **size))
    return path


def test_frames_come_back_in_order_and_browsers_can_play_them(tmp_path):
    path = write(tmp_path / "a.mp4")
    frames = list(videos.read_frames(path))
    assert [number_of(frame) for frame in frames] == list(range(8))
    assert videos.probe(path) == videos.VideoInfo(25.0, 8)
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays before all is loaded


def test_odd_sizes_are_written(tmp_path):
    path = write(tmp_path / "a.mp4", height=49, width=65)
    assert next(videos.read_frames(path)).shape == (50, 66, 3)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), (0, -1)),  # (x, y) -> (-y, x): clockwise, as a phone held upright writes
        ((0, -1, 1, 0), (-1, 0)),
        ((-1, 0, 0, -1), (-1, -1)),
    ],
)
def test_videos_are_turned_as_their_flag_says(tmp_path, matrix, corner):
    path = write(tmp_path / "a.mp4")
    a, b, c, d = (65536 * value for value in matrix)
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(plain, turned, 1))
    frame = next(videos.read_frames(path))
    assert frame.shape == ((48, 64, 3) if matrix[0] else (64, 48, 3))
    red = frame[4 if corner[0] == 0 else -5, 4 if corner[1] == 0 else -5].astype(int)
    assert red[0] - red[1] > 150


def test_a_variable_rate_keeps_the_time(tmp_path):
    path = tmp_path / "a.mp4"
    times = [0, 1, 2, 6, 7, 8, 9]  # of 1/10 s: the third stays for four ticks
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    shown = [number_of(frame) for frame in videos.read_frames(path, fps=10)]
    rate = videos.probe(path, fps=10).fps
    expected = [
        max(i for i, time in enumerate(times) if time / 10 <= (k + 0.5) / rate)
        for k in range(len(shown))
    ]
    assert shown == expected
    assert shown[-1] == 6
    assert abs(len(shown) / rate - 1.0) < 0.15


def test_fewer_frames_and_a_shorter_piece_can_be_asked_for(tmp_path):
    path = write(tmp_path / "a.mp4")
    slow = [number_of(frame) for frame in videos.read_frames(path, fps=12.5)]
    assert slow == [0, 2, 4, 6] or slow == [1, 3, 5, 7]
    assert len(list(videos.read_frames(path, max_seconds=0.2))) == 5


def test_a_broken_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be decoded as a video"):
        list(videos.read_frames(tmp_path / "a.mp4"))


def test_a_failed_run_leaves_no_half_video(tmp_path):
    def fail():
        with videos.VideoWriter(tmp_path / "a.mp4", 25) as writer:
            writer.write(picture(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_camera_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no camera 97"):
        videos.record_webcam(97, tmp_path / "a.mp4", 1)
