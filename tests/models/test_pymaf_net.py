"""PyMAF's parts on their own: pyramid, points, dense targets, camera, vertices, converter."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from made_batches import labelled_crops
from made_pymaf import total

from hmrkit.body.free import free_body, free_body_data
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, project
from hmrkit.layers.convnet import ConvMap
from hmrkit.models.pymaf import convert
from hmrkit.models.pymaf.camera import fit_camera
from hmrkit.models.pymaf.iuv import Atlas, IUVRenderer, densepose_atlas, own_atlas, rasterize
from hmrkit.models.pymaf.loss import PyMAFLoss, dense_terms
from hmrkit.models.pymaf.model import DenseHead, PointMLP, PyMAF, maf_sample
from hmrkit.models.pymaf.vertices import official_surface, official_vertices, spread_vertices

SIZE = (64, 64)
CAMERA = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 1]])[None]


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def make(body_model, **options) -> PyMAF:
    torch.manual_seed(0)
    options = {"num_channels": 16, "num_hidden": 32, "num_points": 32, **options}
    return PyMAF(ConvMap(4), body_model, SIZE, **options)


# ---------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("num_loops", [1, 2, 3])
def test_every_loop_is_in_the_prediction_and_the_last_sees_the_finest_map(body_model, num_loops):
    net = make(body_model, num_loops=num_loops).eval()
    image = labelled_crops(body_model, SIZE)["image"]
    prediction = net({"image": image}, body_model)
    assert len(prediction.stages) == num_loops - 1
    assert prediction.extra["feature_map"].shape == (4, 16, 16, 16)
    for loop in prediction.stages:
        assert loop.body.body_pose.shape == (4, 23, 3, 3)
        assert not torch.equal(loop.extra["pose6d"], prediction.extra["pose6d"])


def test_a_number_of_loops_that_cannot_be_is_refused(body_model):
    with pytest.raises(ValueError, match="num_loops=4: PyMAF has 1 to 3"):
        make(body_model, num_loops=4)


def test_gradients_reach_every_trainable_parameter(body_model):
    net, loss = make(body_model), PyMAFLoss()
    batch = labelled_crops(body_model, SIZE)
    total(loss(net(batch, body_model), batch, body_model)).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_later_loops_look_where_the_surface_of_the_earlier_one_is(body_model):
    net = make(body_model).eval()
    prediction = net(labelled_crops(body_model, SIZE), body_model)
    first = prediction.stages[0]
    vertices = (
        body_model(first.body).vertices[:, net.surface.vertex_index] + first.transl_cam[:, None]
    )
    seen = project(vertices, first.intrinsics_crop)
    torch.testing.assert_close(net.surface(first, body_model), seen, atol=1e-4, rtol=1e-4)


def test_sampling_reads_corners_exactly_and_nothing_outside():
    feature_map = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 1.0], [3.0, 0.0]]])
    assert maf_sample(feature_map, points)[0, 0].tolist() == [0.0, 5.0, 2.5, 3.0, 0.0]


def test_the_point_mlp_is_the_convolutions_that_its_weights_are_named_after():
    torch.manual_seed(0)
    mlp, sampled = PointMLP(12), torch.randn(3, 12, 7)
    hidden = torch.nn.functional.leaky_relu(mlp.conv0(sampled))
    hidden = torch.nn.functional.leaky_relu(mlp.conv1(torch.cat([hidden, sampled], 1)))
    expected = mlp.conv2(torch.cat([hidden, sampled], 1)).relu().flatten(1)
    torch.testing.assert_close(mlp(sampled), expected)


def test_points_whose_numbers_are_all_below_0_still_learn_with_a_slope():
    sampled = torch.rand(2, 12, 7)
    for slope in (0.0, 0.3):
        mlp = PointMLP(12, slope)
        torch.nn.init.constant_(mlp.conv2.bias, -10.0)
        mlp(sampled).sum().backward()
        assert bool(mlp.conv0.weight.grad.any()) == (slope > 0)


@pytest.mark.parametrize("num_stages", [4, 5])
def test_every_stage_of_the_small_map_halves_it(num_stages):
    backbone = ConvMap(4, num_stages)
    side = 64 // 2**num_stages
    features = backbone.features(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, backbone.num_features, side, side)


def test_the_dense_head_is_its_four_convolutions():
    torch.manual_seed(0)
    head, feature_map = DenseHead(6), torch.randn(2, 6, 5, 5)
    maps = head(feature_map)
    names = {"u": "u", "v": "v", "part": "uv_index", "coarse_part": "ann_index"}
    for name, theirs in names.items():
        expected = getattr(head, f"predict_{theirs}")(feature_map)
        torch.testing.assert_close(maps[name], expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_autocast_of_a_training_step_stays_close(body_model):
    net, loss = make(body_model, dropout=0.0), PyMAFLoss()
    batch = labelled_crops(body_model, SIZE)
    exact = loss(net(batch, body_model), batch, body_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss(net(batch, body_model), batch, body_model)
    assert all(value.dtype == torch.float32 for value in rough.values())
    for name, value in exact.items():
        assert abs(rough[name] - value) < 0.05 * value.abs() + 1e-3, name


def test_compiled_equals_eager_in_training_too(body_model):
    net, loss = make(body_model, dropout=0.0), PyMAFLoss()
    batch = labelled_crops(body_model, SIZE)
    terms = []
    for run in (net, torch.compile(net, backend="aot_eager")):
        net.zero_grad()
        values = loss(run(batch, body_model), batch, body_model)
        total(values).backward()
        terms.append((total(values).detach(), net.upsample[0][0][0].weight.grad.clone()))
    torch.testing.assert_close(terms[0][0], terms[1][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(terms[0][1], terms[1][1], atol=1e-3, rtol=1e-3)


# -------------------------------------------------------------------------------------------- IUV


def one_triangle(depth=(2.0, 2.0, 2.0)) -> tuple[torch.Tensor, torch.Tensor]:
    corners = torch.tensor([[-0.9, -0.9], [0.9, -0.9], [-0.9, 0.9]])  # crop units
    depth = torch.tensor(depth)[:, None]
    return torch.cat([corners * depth / 2, depth], dim=1)[None], torch.tensor([[0, 1, 2]])


def test_a_face_covers_the_pixels_whose_centres_it_holds():
    points, faces = one_triangle()
    face, _ = rasterize(points, faces, CAMERA, (8, 8))
    center = (torch.arange(8) + 0.5) / 4 - 1
    x, y = center[None, :], center[:, None]
    expected = (x > -0.9) & (y > -0.9) & (x + y < 0)
    assert torch.equal(face[0] == 0, expected)


def test_weights_of_corners_are_right_in_space_and_not_on_the_screen():
    points, faces = one_triangle(depth=(1.0, 4.0, 2.0))
    face, weight = rasterize(points, faces, CAMERA, (16, 16))
    place = (weight[0][face[0] == 0] @ points[0])[None]  # 3D points of the hit pixels
    y, x = (face[0] == 0).nonzero(as_tuple=True)
    seen = project(place, CAMERA)[0]
    centers = torch.stack([x, y], dim=1) / 8 + 1 / 16 - 1
    torch.testing.assert_close(seen, centers, atol=1e-5, rtol=0)


def test_the_nearer_face_wins_whatever_the_order_and_back_faces_count():
    near, _ = one_triangle()
    far, _ = one_triangle(depth=(3.0, 3.0, 3.0))
    points = torch.cat([far, near], dim=1)
    both = torch.tensor([[0, 1, 2], [3, 5, 4]])  # the near one faces away
    for order in ([0, 1], [1, 0]):
        face, _ = rasterize(points, both[order], CAMERA, (8, 8))
        assert set(face[face >= 0].tolist()) == {order.index(1)}


def test_faces_behind_the_camera_and_points_in_its_plane_vanish():
    for depth in ((-2.0, -2.0, -2.0), (2.0, 2.0, 0.0), (2.0, -1.0, 2.0)):
        points, faces = one_triangle(depth)
        face, weight = rasterize(points, faces, CAMERA, (8, 8))
        assert (face == -1).all()
        assert not weight.any()


def test_a_batch_is_drawn_as_its_samples_alone(body_model):
    renderer = IUVRenderer(own_atlas(body_model), (24, 24))
    batch = labelled_crops(body_model, SIZE)
    vertices = body_model(batch["body"]).vertices
    camera = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1]]).expand(4, 3, 3)
    together = renderer(vertices, camera)
    alone = torch.cat([renderer(vertices[i, None], camera[:1]) for i in range(4)])
    assert torch.equal(together, alone)
    parts = (24 * together[:, 0]).round()
    assert len(parts.unique()) > 12
    assert together[:, 1:].min() >= 0
    assert together[:, 1:].max() <= 1
    assert not together[:, 1:][(parts == 0)[:, None].expand(-1, 2, -1, -1)].any()


def test_the_atlas_of_densepose_is_read_as_it_is_distributed(tmp_path):
    path = tmp_path / "UV_Processed.mat"
    content = {
        "All_vertices": np.array([[3, 1, 2, 3]]),
        "All_Faces": np.array([[1, 2, 3], [4, 2, 3]]),
        "All_FaceIndices": np.array([[5], [6]]),
        "All_U_norm": np.array([[0.0], [1.0], [0.5], [0.25]]),
        "All_V_norm": np.array([[1.0], [0.0], [0.5], [0.75]]),
    }
    scipy.io.savemat(path, content)
    atlas = densepose_atlas(path)
    assert atlas.vertex.tolist() == [2, 0, 1, 2]
    assert atlas.faces.tolist() == [[0, 1, 2], [3, 1, 2]]
    assert atlas.part.tolist() == [5, 6]
    assert atlas.uv[3].tolist() == [0.25, 0.75]
    del content["All_FaceIndices"]
    scipy.io.savemat(path, content)
    with pytest.raises(ValueError, match="no All_FaceIndices"):
        densepose_atlas(path)
    with pytest.raises(FileNotFoundError, match=r"UV_Processed\.mat is in DensePose"):
        densepose_atlas(tmp_path / "nothing.mat")


def test_a_body_without_an_atlas_is_told_which_option_to_give():
    bare = SMPL(replace(free_body_data(), extras={}))
    with pytest.raises(ValueError, match=r"model\.loss\.atlas=<UV_Processed\.mat>"):
        own_atlas(bare)


def test_seams_of_an_atlas_do_not_tear_the_surface():
    """Two atlas vertices that are one vertex of the body are drawn in the same place."""
    points, _ = one_triangle()
    atlas = Atlas(
        np.array([0, 1, 2, 0]),
        np.array([[3, 1, 2]]),
        np.array([7]),
        np.array([[9, 9], [1, 0], [0, 1], [0, 0]], np.float32),
    )
    picture = IUVRenderer(atlas, (8, 8))(points, CAMERA)
    assert ((24 * picture[0, 0]).round() == 7).any()
    assert picture.max() <= 1


# ------------------------------------------------------------------------------------------- loss


def test_dense_targets_lie_where_the_labelled_joints_are(body_model):
    """The camera of the target is found from the keypoints: where they are, the body is."""
    net, loss = make(body_model), PyMAFLoss()
    batch = labelled_crops(body_model, SIZE)
    prediction = net(batch, body_model)
    label = replace(batch["body"], transl=torch.zeros(4, 3))
    iuv = loss.draw_targets(body_model(label).vertices, batch, prediction, body_model)
    assert iuv.shape == (4, 3, 16, 16)
    inner = batch["keypoints_crop"][:, [0, 3, 6, 9]]  # joints of the trunk lie inside the body
    for person in range(4):
        for x, y, _ in inner[person].tolist():
            if max(abs(x), abs(y)) < 0.9:
                row, column = int((y + 1) * 8), int((x + 1) * 8)
                assert iuv[person, 0, row, column] > 0


def test_background_counts_and_invalid_samples_do_not():
    torch.manual_seed(0)
    coarse = PyMAFLoss().coarse
    iuv = torch.zeros(2, 3, 4, 4)
    predicted = {"part": torch.randn(2, 25, 4, 4), "coarse_part": torch.randn(2, 15, 4, 4)}
    predicted |= {name: torch.full((2, 25, 4, 4), 0.5) for name in ("u", "v")}
    one = dense_terms(predicted, iuv, torch.tensor([True, False]), coarse)
    assert one["dense_u"].item() == pytest.approx(16 * 0.125 / 2)  # over the whole batch
    changed = {name: value.clone() for name, value in predicted.items()}
    for value in changed.values():
        value[1] += 3
    again = dense_terms(changed, iuv, torch.tensor([True, False]), coarse)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_without_dense_terms_no_target_is_drawn(body_model):
    net = make(body_model)
    loss = PyMAFLoss(dense_uv=0, dense_part=0, dense_coarse_part=0)
    batch = labelled_crops(body_model, SIZE)
    terms = loss(net(batch, body_model), batch, body_model)
    assert set(terms) == {"keypoints2d", "keypoints3d", "pose", "betas", "camera"}
    assert loss.renderer is None


@pytest.mark.parametrize(("norm", "times"), [("l1", 2.0), ("l2", 4.0)])
def test_twice_the_distance_costs_twice_or_four_times_by_norm(body_model, norm, times):
    batch = labelled_crops(body_model, SIZE)
    weights = {"dense_uv": 0, "dense_part": 0, "dense_coarse_part": 0, "gt_weight": 1.0}
    loss = PyMAFLoss(keypoint_norm=norm, **weights)
    prediction = make(body_model)(batch, body_model)
    prediction.stages = []
    joints = body_model.joints(prediction.body, loss.joint_set)[:, loss.rows_3d].detach()
    labels = loss.in_batch[loss.rows_3d]
    costs = []
    for factor in (1, 2):
        moved = {**batch, "keypoints_world": batch["keypoints_world"].clone()}
        moved["keypoints_world"][:, labels, :3] = joints
        moved["keypoints_world"][:, labels[0], 0] += 0.1 * factor  # a joint that is no hip
        costs.append(loss(prediction, moved, body_model)["keypoints3d"].item())
    assert costs[1] / costs[0] == pytest.approx(times, rel=1e-3)


# ----------------------------------------------------------------------------------------- camera


def test_the_camera_that_made_the_keypoints_is_found(body_model):
    batch = labelled_crops(body_model, SIZE)
    camera = crop_intrinsics(5000.0, (224, 224)).expand(4, 3, 3)
    points = batch["keypoints_world"][..., :3] - batch["body"].transl[:, None]
    transl = torch.tensor([[0.1, -0.2, 50.0], [0, 0, 40.0], [0.3, 0.1, 60.0], [0, 0.2, 45.0]])
    seen = project(points + transl[:, None], camera)
    weight = torch.ones(seen.shape[:2])
    weight[:, ::3] = 0
    seen = torch.where(weight[..., None] > 0, seen, 7.0)  # what has no weight may be anything
    found = fit_camera(points, seen, weight, camera)
    torch.testing.assert_close(found, transl, atol=2e-2, rtol=1e-3)


def test_a_sample_without_keypoints_gets_a_camera_that_fails_nothing():
    camera = crop_intrinsics(5000.0, (224, 224)).expand(2, 3, 3)
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    found = fit_camera(points, torch.zeros(2, 5, 2), torch.zeros(2, 5), camera)
    assert found.tolist() == [[0, 0, 1], [0, 0, 1]]


# --------------------------------------------------------------------------------------- vertices


def test_the_free_body_brings_the_vertices_of_its_own_coarse_levels(body_model):
    assert spread_vertices(body_model, 431).tolist() == list(body_model.extras["level2_vertices"])
    assert len(body_model.extras["level1_vertices"]) == 1723
    assert set(body_model.extras["level2_vertices"]) <= set(body_model.extras["level1_vertices"])


def test_any_other_number_is_spread_over_the_whole_surface(body_model):
    index = spread_vertices(body_model, 100)
    assert len(index.unique()) == 100
    assert (index.diff() > 0).all()
    vertices = body_model(body_model.mean_body(1)).vertices[0]
    away = torch.cdist(vertices, vertices[index]).amin(dim=1)
    apart = torch.cdist(vertices[index], vertices[index]).fill_diagonal_(9).amin()
    assert away.max() <= apart + 1e-6  # farthest-point sampling: nobody is left farther than that


def test_the_official_selection_is_read_from_its_matrices(tmp_path):
    first, second = np.zeros((5, 9)), np.zeros((2, 5))
    first[np.arange(5), [0, 2, 4, 6, 8]] = 1
    second[[0, 1], [1, 3]] = 1
    matrices = np.empty(2, object)
    matrices[:] = [first, second]
    np.savez(tmp_path / "mesh_downsampling.npz", D=matrices)
    assert official_vertices(tmp_path / "mesh_downsampling.npz").tolist() == [2, 6]
    weights = official_surface(tmp_path / "mesh_downsampling.npz")
    assert weights["vertex_index"].tolist() == [2, 6]
    first[0, 1] = 1
    np.savez(tmp_path / "mesh_downsampling.npz", D=matrices)
    with pytest.raises(ValueError, match="does not pick one vertex per row"):
        official_vertices(tmp_path / "mesh_downsampling.npz")


# -------------------------------------------------------------------------------------- converter


def test_a_file_that_is_none_of_pymafs_is_refused():
    with pytest.raises(ValueError, match="no entry 'model'"):
        convert.convert({"epoch": 3})
    with pytest.raises(ValueError, match="unknown entry 'state_dict'"):
        convert.convert({"model": {}, "state_dict": {}})


def test_a_selection_that_is_none_is_refused():
    rows = torch.zeros(3, 9)
    rows[[0, 1, 2], [1, 5, 7]] = 1
    weights = {"maf_extractor.0.Dmap": rows}
    assert convert._vertex_index(weights).tolist() == [1, 5, 7]
    rows[1, 6] = 1
    with pytest.raises(ValueError, match="does not pick one vertex per row"):
        convert._vertex_index(weights)
