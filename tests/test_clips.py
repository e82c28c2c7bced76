"""The demo on real videos, as a user runs it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import made_programs
from hmrkit import configs
from hmrkit.body.free import free_body
from hmrkit.infer import exports, motion, plan, tracks, videos
from hmrkit.infer.smoothing import Gaussian
from made_pages import CHROMIUM, screenshot
from test_infer import made_checkpoint

NUM = 8


def made_video(path, num=NUM):
    """Somebody red who walks to the right, somebody blue who stands."""
    noise = np.random.default_rng(0).integers(90, 110, (96, 160, 3)).astype(np.uint8)
    with videos.VideoWriter(path, 10.0) as writer:
        for number in range(num):
            image = noise.copy()
            image[20:80, 10 + 5 * number : 34 + 5 * number] = [220, 40, 40]
            image[30:80, 120:140] = [40, 40, 220]
            writer.write(image)
    return path


def boxes_of(frame):
    return [[10 + 5 * frame, 20, 34 + 5 * frame, 80], [120, 30, 140, 80]]


def demo(folder, *overrides):
    done = made_programs.run("demo", "checkpoint=last.ckpt", *overrides, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a network, a video, and everything the demo makes of it."""
    folder = tmp_path_factory.mktemp("clip")
    made_checkpoint(folder / "last.ckpt")
    made_video(folder / "walk.mp4")
    content = {f"{n + 1:06d}.jpg": boxes_of(n) for n in range(NUM) if n != 3}  # one frame is missed
    (folder / "boxes.json").write_text(json.dumps(content))
    said = demo(
        folder,
        *("input=walk.mp4", "boxes=boxes.json", "output=out", "smoothing=gaussian"),
        "formats=[overlay,side,npz,glb,obj,ply,bvh,coco,viewer]",
    )
    (folder / "said.txt").write_text(said)
    return folder


def person(made, number):
    with np.load(made / "out" / "walk" / f"person_{number}.npz", allow_pickle=False) as file:
        return dict(file)


def test_every_file_is_there_and_the_jitter_is_told(made):
    names = {p.relative_to(made / "out").as_posix() for p in (made / "out").rglob("*")}
    whole = {f"walk{end}" for end in ("_overlay.mp4", "_side.mp4", ".glb", "_coco.json")}
    single = {f"walk/person_{i}.{kind}" for i in (1, 2) for kind in ("npz", "bvh")}
    assert whole | single | {"walk_viewer.html", "walk/000001.obj", "walk/000008.ply"} <= names
    said = (made / "said.txt").read_text()
    assert "2 people in 8 frames" in said
    assert "acceleration of the joints" in said
    assert "frame/s" in said
    assert said.count("rendering with") == 1


def test_people_keep_their_ids_and_a_missed_frame_is_filled(made):
    walker, stander = person(made, 1), person(made, 2)
    assert walker.keys() == motion.MOTION_SCHEMA.keys()
    assert walker["is_seen"].tolist() == [n != 3 for n in range(NUM)]
    assert walker["is_there"].all()
    np.testing.assert_allclose(walker["box_img"][7], boxes_of(7)[0])
    np.testing.assert_allclose(stander["box_img"][7], boxes_of(7)[1])
    assert np.isnan(walker["box_img"][3]).all()
    middle = walker["keypoints_img"][:, 0, 0]
    assert (np.diff(middle) > 2).all()
    assert np.ptp(stander["keypoints_img"][:, 0, 0]) < 5
    np.testing.assert_array_equal(walker["intrinsics_img"], stander["intrinsics_img"])


def test_the_overlay_is_as_long_as_the_video_and_colours_stay_with_people(made):
    frames = list(videos.read_frames(made / "out" / "walk_overlay.mp4"))
    assert len(frames) == NUM
    assert videos.probe(made / "out" / "walk_overlay.mp4").fps == pytest.approx(10)
    assert frames[0].shape == (96, 160, 3)
    assert len(list(videos.read_frames(made / "out" / "walk_side.mp4"))) == NUM
    blueish, reddish = [], []
    for number, frame in enumerate(frames):  # the palette begins with a blue and a red
        x = 22 + 5 * number
        body = frame[40:60, x - 4 : x + 4].reshape(-1, 3).astype(int).mean(axis=0)
        blueish.append(body[2] - body[0])
        still = frame[45:65, 126:134].reshape(-1, 3).astype(int).mean(axis=0)
        reddish.append(still[0] - still[2])
    assert min(blueish) > 10
    assert min(reddish) > 10


def test_frames_of_meshes_and_numbers_agree(made):
    import trimesh

    mesh = trimesh.load(made / "out" / "walk" / "000005.ply", process=False)
    assert len(mesh.vertices) == 2 * 6890
    obj = trimesh.load(made / "out" / "walk" / "000005.obj", process=False, split_object=False)
    np.testing.assert_allclose(obj.bounds, mesh.bounds, atol=1e-4)
    joints_gltf = person(made, 1)["joints_cam"][4] * [1, -1, -1]
    low, high = mesh.vertices[:6890].min(axis=0), mesh.vertices[:6890].max(axis=0)
    assert ((joints_gltf > low) & (joints_gltf < high)).all()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_plays_without_network(made):
    page = made / "out" / "walk_viewer.html"
    first = screenshot(page, (640, 480), "frame=0").astype(int)
    last = screenshot(page, (640, 480), "frame=7").astype(int)
    stage = np.s_[60:380]
    assert len(np.unique(first[stage].reshape(-1, 3), axis=0)) > 1000
    moved = np.abs(first - last)[stage].max(axis=2) > 40
    assert 0.01 < moved.mean() < 0.5


def test_the_same_command_goes_on_where_it_stopped(made):
    pictures = made / "pictures"
    pictures.mkdir()
    for name in "abc":
        cv2.imwrite(str(pictures / f"{name}.png"), np.full((40, 60, 3), 90, np.uint8))
    arguments = ("input=pictures", "output=again", "formats=[npz]")
    demo(made, *arguments)
    (made / "again" / "b.npz").unlink()
    lines = (made / "again" / ".hmrkit_demo.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"b"' not in line]  # as if it had stopped in b
    (made / "again" / ".hmrkit_demo.jsonl").write_text("\n".join(kept) + "\n")
    times = {n: (made / "again" / f"{n}.npz").stat().st_mtime_ns for n in "ac"}
    said = demo(made, *arguments)
    assert "2 done by an earlier run" in said
    assert (made / "again" / "b.npz").is_file()
    assert times == {n: (made / "again" / f"{n}.npz").stat().st_mtime_ns for n in "ac"}
    said = demo(made, *arguments, "joint_set=coco17")  # other results: everything anew
    assert "earlier run" not in said


def test_a_broken_video_is_listed_and_the_others_are_done(made):
    mixed = made / "mixed"
    mixed.mkdir()
    (mixed / "bad.mp4").write_bytes(b"no video")
    made_video(mixed / "good.mp4", 6)
    cv2.imwrite(str(mixed / "photo.png"), np.full((40, 60, 3), 90, np.uint8))
    said = demo(made, "input=mixed", "output=mixed_out", "formats=[npz]")
    assert "bad.mp4 cannot be decoded as a video" in said
    assert "2 of 3 inputs done" in said
    assert (made / "mixed_out" / "good" / "person_1.npz").is_file()
    assert (made / "mixed_out" / "photo.npz").is_file()


def test_optimisation_at_test_time_works_on_videos(made):
    folder = made / "found"
    folder.mkdir()
    for frame in range(6):
        x1, y1, x2, y2 = boxes_of(frame)[0]
        points = [[x1, y1, 0.9], [x2, y2, 0.9]] + [[(x1 + x2) / 2, (y1 + y2) / 2, 0.9]] * 10
        flat = [v for row in points + [[0, 0, 0]] * 13 for v in row]
        content = {"people": [{"pose_keypoints_2d": flat}]}
        (folder / f"short_{frame:012d}_keypoints.json").write_text(json.dumps(content))
    made_video(made / "short.mp4", 6)
    arguments = ("input=short.mp4", "keypoints=found", "formats=[npz]")
    demo(made, *arguments, "output=plain")
    demo(made, *arguments, "output=adapted", "adapt=per_batch", "adapt.num_steps=2")
    poses = []
    for name in ("plain", "adapted"):
        with np.load(made / name / "short" / "person_1.npz") as file:
            assert file["is_seen"].all()
            poses.append(file["poses"])
    assert np.abs(poses[0] - poses[1]).max() > 1e-3


# --- tracks -----------------------------------------------------------------------------------


def made_rows(frames, ids, depth=40.0):
    num = len(frames)
    eye = torch.eye(3).expand(num, 3, 3)
    camera = torch.tensor([[4000.0, 0, 320], [0, 4000, 240], [0, 0, 1]]).expand(num, 3, 3)
    generator = torch.Generator().manual_seed(0)
    place = torch.tensor([1.0, 0.5, depth]) + torch.randn(
        num, 3, generator=generator
    ) * torch.tensor([0.01, 0.01, 1.0])
    return {
        "global_orient": eye,
        "body_pose": torch.eye(3).expand(num, 23, 3, 3),
        "betas": torch.randn(num, 10, generator=generator),
        "transl": torch.zeros(num, 3),
        "pelvis": torch.zeros(num, 3),
        "transl_cam": place,
        "intrinsics_img": camera,
        "frame": torch.tensor(frames),
        "id": torch.tensor(ids),
        "box_img": torch.zeros(num, 4),
        "score": torch.ones(num),
    }


def test_noise_of_the_depth_does_not_move_anybody_in_the_picture():
    rows = made_rows(list(range(20)), [5] * 20)
    camera = rows["intrinsics_img"][0].double()
    (track,) = tracks.make_tracks(rows, camera, 20, min_frames=3, max_gap=2)
    smooth = tracks.smooth_track(track, Gaussian(0.2), 10.0)

    def pixels(one):
        rays = one.pelvis_cam @ camera.T
        return rays[:, :2] / rays[:, 2:]

    assert float(smooth.pelvis_cam[:, 2].std()) < 0.5 * float(track.pelvis_cam[:, 2].std())
    shift = (pixels(smooth) - pixels(track)).norm(dim=1)
    assert float(shift.max()) < 6  # 1 m of depth would be 2.5 px; the noise itself is 1 cm = 1 px


def test_short_appearances_are_left_out_and_shapes_are_one_per_person():
    rows = made_rows([0, 1, 2, 3, 3], [7, 7, 7, 7, 9])
    camera = rows["intrinsics_img"][0].double()
    found = tracks.make_tracks(rows, camera, 4, min_frames=2, max_gap=0)
    assert [track.identity for track in found] == [1]
    torch.testing.assert_close(found[0].betas.float(), rows["betas"][:4].mean(dim=0))
    vertices, there = tracks.people_at(found, 2, free_body())
    assert vertices.shape == (1, 6890, 3)
    assert there == [0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fps=0", "fps=0: give more than 0"),
        ("batch_frames=0", "batch_frames=0: give 1 or more"),
        ("focal_px=lens", "focal_px=lens: give a number of pixels, exif or null"),
        ("detector=sathmr", r"detector\.checkpoint missing"),
        ("adapt=per_batch", r"adapt= needs 2D evidence.*<video>_<number>_keypoints"),
    ],
)
def test_wrong_options_of_videos_are_answered_at_once(tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    Path("last.ckpt").write_bytes(b"not looked at")
    made_video(tmp_path / "a.mp4", 2)
    overrides = ["checkpoint=last.ckpt", "run_dir=out", "input=a.mp4", override]
    with pytest.raises(ValueError, match=message):
        plan.make_plan(configs.load_config("demo", overrides))


def test_every_format_is_on_the_page_of_exports():
    page = (Path(configs.config_dir()).parent / "docs" / "exports.md").read_text()
    for name in plan.FORMATS:
        assert f"`{name}`" in page, name
    for schema in (exports.PEOPLE_SCHEMA, motion.MOTION_SCHEMA):
        for key, (shape, meaning) in schema.items():
            assert f"| `{key}` | {shape} | {meaning} |" in page, key
