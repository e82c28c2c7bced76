import functools
import json
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hmrkit.infer import boxes, inputs


def made_picture(height=40, width=60):
    """Smooth, and different in each corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_by_their_exif_flag(tmp_path, orientation):
    upright = made_picture()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert inputs.image_size(path) == upright.shape[:2]
    np.testing.assert_array_equal(inputs.read_image(path), upright)


def test_16_bit_pictures_keep_their_brightness(tmp_path):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), values)
    cv2.imwrite(str(tmp_path / "color.png"), np.repeat(values[..., None], 3, axis=2))
    for name in ("grey.png", "color.png"):
        image = inputs.read_image(tmp_path / name)
        assert image.shape == (40, 60, 3)
        assert image.dtype == np.uint8
        assert np.abs(image[..., 0] - values / 257).max() <= 1


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.dstack([made_picture(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "grey.png")
    image = inputs.read_image(tmp_path / "a.png")
    assert (image[:20] == 255).all()
    np.testing.assert_array_equal(image[20:], rgba[20:, :, :3])
    assert (inputs.read_image(tmp_path / "grey.png")[:20] == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.png" if mode in ("L", "1", "P") else "a.jpg")
    Image.fromarray(made_picture()).convert(mode).save(path)
    image = inputs.read_image(path)
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    assert image.flags.writeable
    if mode in ("CMYK", "YCbCr"):
        assert np.abs(image.astype(int) - made_picture()).mean() < 12


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_pictures_are_named(tmp_path, damage):
    path = tmp_path / "broken.jpg"
    Image.fromarray(made_picture(400, 600)).save(path)
    content = {"truncated": path.read_bytes()[:3000], "text": b"hello", "empty": b""}[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        inputs.read_image(path)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(made_picture()).save(path)
    return path


def test_outputs_mirror_inputs_and_never_share_a_name(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.jpg", "a.png", "B.jpg", "sub/a.jpg", "sub/b.tar.jpg", "a_png.webp"):
        touch(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "sub" / "c.mp4").write_bytes(b"")
    (folder / "sub" / "a.mp4").write_bytes(b"")
    given = [str(folder), str(touch(tmp_path / "other/b.jpg"))]
    found, videos = inputs.find_inputs(given, tmp_path / "o")
    assert videos == {"sub/c": folder / "sub/c.mp4", "sub/a_mp4": folder / "sub/a.mp4"}
    assert sorted(path.name for path in found.values()) == sorted(
        ["a.jpg", "a.png", "B.jpg", "a.jpg", "b.tar.jpg", "a_png.webp", "b.jpg"]
    )
    assert len({name.casefold() for name in found}) == len(found)
    assert found["sub/a_jpg"] == folder / "sub/a.jpg"
    assert found["sub/b.tar"] == folder / "sub/b.tar.jpg"


def test_a_picture_given_twice_counts_once(tmp_path):
    path = touch(tmp_path / "a.jpg")
    assert inputs.find_inputs([path, tmp_path], tmp_path / "out") == ({"a": path}, {})


def test_results_of_an_earlier_run_are_not_inputs(tmp_path):
    touch(tmp_path / "out" / "a_overlay.jpg")
    touch(tmp_path / "a.jpg")
    assert list(inputs.find_inputs(tmp_path, tmp_path / "out")[0]) == ["a"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.jpg", FileNotFoundError, r"missing\.jpg: no such file or folder"),
        ("empty", FileNotFoundError, "no picture"),
        ([], FileNotFoundError, "the list is empty"),
        ("https://a.b/c.jpg", ValueError, "web address; download it"),
    ],
)
def test_wrong_inputs_get_a_message_with_a_remedy(tmp_path, monkeypatch, source, error, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(error, match=message):
        inputs.find_inputs(source, tmp_path / "out")


def test_a_web_address_is_fetched_if_that_is_allowed(tmp_path, monkeypatch):
    path = touch(tmp_path / "web" / "c.jpg")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        images, _ = inputs.find_inputs(f"{url}/c.jpg?x=1", tmp_path / "out", allow_urls=True)
        assert images["c"].read_bytes() == path.read_bytes()
        with pytest.raises(ValueError, match=r"d\.jpg cannot be downloaded"):
            inputs.find_inputs(f"{url}/d.jpg", tmp_path / "out", allow_urls=True)
        server.shutdown()
    assert [p.name for p in (tmp_path / "out" / "downloads").iterdir()] == ["c.jpg"]


def test_the_focal_length_of_a_photo_is_that_of_its_lens(tmp_path):
    image = Image.fromarray(made_picture(240, 360))  # 3:2, as film
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA405] = 50
    image.save(tmp_path / "a.jpg", exif=tags)
    assert inputs.exif_focal_px(tmp_path / "a.jpg") == pytest.approx(50 / 36 * 360, rel=1e-3)
    assert inputs.exif_focal_px(touch(tmp_path / "b.jpg")) is None


def test_a_phone_format_without_its_library_is_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r'a\.heic needs .* pip install "hmrkit\[heic\]"'):
        inputs.read_image(tmp_path / "a.heic")


def test_photos_of_phones_are_read_upright(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    lying = np.zeros((60, 40, 3), np.uint8)
    lying[:, :20] = 200
    tags = Image.Exif()
    tags[0x0112] = 6
    tags.get_ifd(0x8769)[0xA405] = 26
    Image.fromarray(lying).save(tmp_path / "a.heic", exif=tags, quality=95)
    read = inputs.read_image(tmp_path / "a.heic")
    assert read.shape[:2] == inputs.image_size(tmp_path / "a.heic")
    assert abs(float(read.mean()) - 100) < 5
    assert inputs.exif_focal_px(tmp_path / "a.heic") == pytest.approx(26 / 43.27 * 72.11, rel=0.01)


# --- boxes ----------------------------------------------------------------------------------------

IMAGES = {"a": Path("in/x/a.jpg"), "b": Path("in/y/b.jpg"), "a_2": Path("in/y/a.jpg")}
SIZES = {"a": (100, 200), "b": (100, 200), "a_2": (300, 400)}


def test_without_boxes_the_box_is_the_whole_picture():
    found = boxes.read_boxes(None, IMAGES, SIZES)
    assert found["a"].tolist() == [[-0.5, -0.5, 199.5, 99.5]]
    assert boxes.shrink_box(found["a"][0], 2.0).tolist() == [49.5, 24.5, 149.5, 74.5]


def test_a_list_of_boxes_is_for_every_picture():
    found = boxes.read_boxes([[1, 2, 3, 4], [-5, 6, 70, 80]], IMAGES, SIZES)
    assert all(b.tolist() == [[1, 2, 3, 4], [-5, 6, 70, 80]] for b in found.values())


def test_a_json_file_gives_boxes_by_picture(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"b.jpg": [[1, 2, 3, 4]], "y/a.jpg": [[5, 6, 7, 8], [1, 1, 2, 2]]}))
    found = boxes.read_boxes(str(path), IMAGES, SIZES)
    assert {name: len(b) for name, b in found.items()} == {"a": 0, "b": 1, "a_2": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [[250, 0, 300, 50]],
            r"box \[250.*lies outside in/x/a\.jpg, which is 200 wide and 100 high",
        ),
        ([[10, 0, 5, 50]], r"box \[10.*x1 < x2"),
        ([[10, 0, float("nan"), 50]], "x1 < x2"),
        ([1, 2, 3, 4], r"give \[\[x1,y1,x2,y2\],"),
        ([[1, 2, 3]], r"give \[\[x1,y1,x2,y2\],"),
        ([["x", 2, 3, 4]], r"give \[\[x1,y1,x2,y2\],"),
        ({"c.jpg": [[1, 2, 3, 4]]}, r"'c\.jpg', which is not among the pictures"),
        ({"a.jpg": [[1, 2, 3, 4]]}, r"'a\.jpg' fits 2 pictures; write it with its folder"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        boxes.read_boxes(str(path), IMAGES, SIZES)


def test_a_wrong_boxes_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such file"):
        boxes.read_boxes(str(tmp_path / "no.json"), IMAGES, SIZES)
    (tmp_path / "bad.json").write_text("[[1,2")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON"):
        boxes.read_boxes(str(tmp_path / "bad.json"), IMAGES, SIZES)
