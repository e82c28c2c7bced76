"""CLIFF, its place in the image, its backbones and its checkpoints."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_batches import labelled_crops, placed_in_images

from hmrkit.body.free import free_body
from hmrkit.checkpoints import load_official
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.geometry.cameras import crop_to_full_intrinsics
from hmrkit.layers.hrnet import ClassificationHRNet, PoseHRNet
from hmrkit.layers.resnet import ResNet
from hmrkit.models.hmr.cliff import CLIFF, box_information, full_image_box, intrinsics_of_box
from hmrkit.models.hmr.loss import HMRLoss
from made_records import make_record

SIZE = (64, 64)
STATES = Path(__file__).parents[1] / "parity" / "cases" / "metahmr"


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def make_backbone(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "resnet":
        return ResNet([1, 1, 1, 1])
    net = PoseHRNet if name == "pose_hrnet" else ClassificationHRNet
    return net(width=8, num_modules=(1, 1, 1), num_blocks=1)


def make_net(body_model, backbone: str = "resnet") -> CLIFF:
    net = CLIFF(make_backbone(backbone), body_model, SIZE, num_hidden=64)
    for module in net.modules():  # the first values of a pose network are too small to see
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return net


def make_batch(body_model) -> dict:
    return placed_in_images(labelled_crops(body_model, SIZE))


def cut(params: AugmentParams, intrinsics: np.ndarray | None = None) -> dict:
    """A crop of a person at the right of an image of 480 x 360 px."""
    record = make_record(size_hw=(360, 480))
    record["box_img"] = np.float32([[300, 100, 400, 300]])
    if intrinsics is not None:
        record["intrinsics"] = np.float32(intrinsics)[None]
    else:
        record["intrinsics"] = np.full((1, 3, 3), np.nan, np.float32)
    record["intrinsics_of_view"] = np.full((1, 3, 3), np.nan, np.float32)
    return collate([Crops(SIZE, box_scale=1.0).cut(record, 0, params)])


def camera_of(focal_px: float) -> np.ndarray:
    return np.array([[focal_px, 0, 240], [0, focal_px, 180], [0, 0, 1.0]])


def test_box_information_of_a_crop_by_hand():
    box = full_image_box(cut(AugmentParams(), camera_of(500.0)))
    assert box.center_img[0].tolist() == pytest.approx([350, 200])
    assert box.side_px.item() == pytest.approx(200)
    expected = [110 / 500 * 2.8, 20 / 500 * 2.8, (200 - 0.24 * 500) / (0.06 * 500)]
    assert box_information(box)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_without_a_known_focal_length_it_is_the_diagonal_of_the_image():
    assert full_image_box(cut(AugmentParams())).focal_px.item() == pytest.approx(600)
    two = camera_of(500.0)
    two[1, 1] = 520
    assert full_image_box(cut(AugmentParams(), two)).focal_px.item() == pytest.approx(510)


def test_the_crops_camera_is_that_of_the_whole_image():
    batch = cut(AugmentParams(scale=1.2), camera_of(500.0))
    matrix = intrinsics_of_box(full_image_box(batch), SIZE)
    found = crop_to_full_intrinsics(matrix, batch["crop_to_img"])[0]
    np.testing.assert_allclose(found, camera_of(500.0), atol=1e-3)


def test_a_crop_that_is_not_square_keeps_the_aspect_of_the_pixels():
    record = make_record(size_hw=(360, 480))
    batch = collate([Crops((128, 96)).cut(record, 0, AugmentParams())])
    matrix = intrinsics_of_box(full_image_box(batch), (128, 96))
    found = crop_to_full_intrinsics(matrix, batch["crop_to_img"])[0]
    assert found[0, 0].item() == pytest.approx(found[1, 1].item(), rel=1e-5)


def test_augmentation_moves_the_box_as_the_authors_do():
    """Mirrored about the image's middle, larger by the scale, not turned."""
    plain = full_image_box(cut(AugmentParams()))
    moved = full_image_box(cut(AugmentParams(scale=1.2, rotation_deg=30.0, is_flipped=True)))
    assert moved.center_img[0].tolist() == pytest.approx([480 - 1 - 350, 200], abs=1e-3)
    assert moved.side_px.item() == pytest.approx(1.2 * plain.side_px.item(), rel=1e-5)


@pytest.mark.parametrize("backbone", ["resnet", "pose_hrnet", "classification_hrnet"])
def test_gradients_reach_every_trainable_parameter(body_model, backbone):
    net, batch = make_net(body_model, backbone), make_batch(body_model)
    terms = HMRLoss()(net(batch, body_model), batch, body_model)
    torch.stack(list(terms.values())).sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("backbone", ["resnet", "pose_hrnet", "classification_hrnet"])
def test_rows_of_a_batch_are_independent_in_eval(body_model, backbone):
    net, batch = make_net(body_model, backbone).eval(), make_batch(body_model)
    together = net(batch, body_model)
    row = {name: value[2:3] for name, value in batch.items() if torch.is_tensor(value)}
    alone = net({**row, "image_of_view": torch.zeros(1, dtype=torch.int64)}, body_model)
    for name in ("global_orient", "body_pose", "betas"):
        pair = getattr(together.body, name)[2:3], getattr(alone.body, name)
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.transl_cam[2:3], alone.transl_cam, atol=1e-3, rtol=1e-4)


def test_the_place_of_the_crop_in_the_image_changes_body_and_translation(body_model):
    net, batch = make_net(body_model).eval(), make_batch(body_model)
    moved = batch["crop_to_img"].clone()
    moved[:, 0, 2] += 100
    first, second = net(batch, body_model), net({**batch, "crop_to_img": moved}, body_model)
    assert (first.body.body_pose - second.body.body_pose).abs().max() > 1e-4
    assert (second.transl_cam[:, 0] > first.transl_cam[:, 0] + 0.1).all()


def test_a_prediction_seen_through_its_camera_stands_in_its_crop(body_model):
    net, batch = make_net(body_model).eval(), make_batch(body_model)
    prediction = net(batch, body_model)
    points = body_model.joints(prediction.body) + prediction.transl_cam[:, None]
    pixels = points @ prediction.intrinsics_crop.transpose(1, 2)
    seen = pixels[..., :2] / pixels[..., 2:]
    assert (points[..., 2] > 0).all()
    assert seen.abs().max() < 2.5  # crop units; the net knows nothing yet


def test_the_feature_of_another_pass_spares_the_backbone(body_model, monkeypatch):
    net, batch = make_net(body_model).eval(), make_batch(body_model)
    expected = net(batch, body_model)
    monkeypatch.setattr(net.backbone, "forward", lambda _: pytest.fail("ran the backbone"))
    again = net(batch, body_model, feature=expected.extra["feature"])
    assert torch.equal(again.body.body_pose, expected.body.body_pose)


def test_a_crop_of_another_size_is_refused(body_model):
    with pytest.raises(ValueError, match="crops are 32x32 but this network takes 64x64"):
        make_net(body_model)({"image": torch.zeros(1, 3, 32, 32)}, body_model)


def test_the_classification_network_is_timms():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = ClassificationHRNet(width=18).eval().double()  # fresh, its maps grow to 1e7
    theirs = timm.create_model("hrnet_w18", pretrained=False).eval().double()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == {"classifier.weight", "classifier.bias"}
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.forward_features(image).mean(dim=(2, 3))
        found = ours(image)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


# ------------------------------------------------------------------------------------- checkpoints


def official(prefix: str = "", body: str = "") -> dict[str, torch.Tensor]:
    """A small CLIFF's weights by the authors' names: ``prefix`` all, ``body`` the backbone's."""
    with gzip.open(STATES / "state_cliff_resnet_1111.json.gz", "rt") as lines:
        table = json.load(lines)["model_aux"]
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, (shape, dtype) in table.items():
        is_backbone = name.startswith(("conv1", "bn1", "layer"))
        value = torch.zeros(shape) if dtype == "int64" else torch.rand(shape, generator=generator)
        weights[prefix + (body if is_backbone else "") + name] = value.to(getattr(torch, dtype))
    return weights


def load(content: dict, folder: Path, **options):
    torch.save(content, folder / "official.pt")
    return load_official("hmr", folder / "official.pt", overrides=["model=cliff"], **options)


def test_cliffs_own_file_loads_whole_with_three_iterations(tmp_path):
    weights = official("module.", "encoder.")
    module = load({"model": weights}, tmp_path)
    assert isinstance(module.net, CLIFF)
    assert module.net.head.num_iterations == 3
    assert module.config["data"]["cut"]["half_resolution_sources"] == ["pw3d", "pw3d_metahmr"]
    ours = module.net.state_dict()
    assert len(ours) == len(weights)
    pairs = {"backbone.layer4.0.bn3.weight": "module.encoder.layer4.0.bn3.weight"}
    pairs |= {"head.fc1.weight": "module.fc1.weight", "head.init_cam": "module.init_cam"}
    for name, theirs in pairs.items():
        assert torch.equal(ours[name], weights[theirs])


def test_main_and_auxiliary_of_meta_hmr_load_alone(tmp_path):
    content = {"model": official(), "model_aux": official()}
    iterations = [
        load(content, tmp_path, network=name).net.head.num_iterations
        for name in ("main", "auxiliary")
    ]
    assert iterations == [10, 3]


def test_a_weight_without_a_place_or_a_gap_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'module\.deccam2\.bias'"):
        load({"model": {**official("module."), "module.deccam2.bias": torch.zeros(1)}}, tmp_path)
    less = {name: value for name, value in official().items() if name != "layer3.0.bn1.bias"}
    with pytest.raises(ValueError, match=r"backbone\.layer3\.0\.bn1\.bias"):
        load({"model": less}, tmp_path)


def test_the_scale_decides_the_distance(body_model):
    net, batch = make_net(body_model).eval(), make_batch(body_model)
    prediction = net(batch, body_model)
    box = full_image_box(batch)
    expected = 2 * box.focal_px / (box.side_px * prediction.extra["cam"][:, 0])
    torch.testing.assert_close(prediction.transl_cam[:, 2], expected)
    assert math.isclose(box.focal_px[0], 1000.0)
