import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from made_scenes import labelled_scenes
from torch import distributed, multiprocessing

from hmrkit.body.free import free_body
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.scenes import Scenes
from hmrkit.initial_weights import set_initial_weights
from hmrkit.models.sathmr import convert, tokens
from hmrkit.models.sathmr.decoder import Decoder, Memory
from hmrkit.models.sathmr.denoising import Denoiser
from hmrkit.models.sathmr.encoder import AdaptiveEncoder, PlainEncoder
from hmrkit.models.sathmr.labels import scene_labels
from hmrkit.models.sathmr.loss import SATHMRLoss, person_values
from hmrkit.models.sathmr.model import SATHMR
from hmrkit.models.sathmr.people import Estimates
from hmrkit.models.sathmr.positions import logit, sine_encoding
from hmrkit.models.sathmr.stem import ConvStem
from made_records import make_record

SIDE = 224
SIZES = [(150, 224), (224, 112)]


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def make_net(body_model, encoder="adaptive", denoiser=True, depth=3, **options) -> SATHMR:
    torch.manual_seed(0)
    size = {"long_side_px": SIDE, "dim": 32, "depth": depth, "num_heads": 2}
    if encoder == "plain":
        made = PlainEncoder(**size)
    else:
        stem = partial(ConvStem, width=4) if encoder == "convolutions" else None
        made = AdaptiveEncoder(**size, map_depth=1, embed=stem)
    denoising = Denoiser(32, num_groups=2) if denoiser else None
    decoder = Decoder(32, depth=depth - 1, num_heads=2, mlp_dim=32)
    options = {"num_queries": 8, **options}
    return SATHMR(made, decoder, denoising, body_model, long_side_px=SIDE, **options)


def make_loss(**options) -> SATHMRLoss:
    return SATHMRLoss(long_side_px=SIDE, **options)


def total(terms) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def one_image(batch, index: int):
    """The batch of one of its images, cut to the size that the image has alone."""
    height, width = (-(-batch["input_size"][index] // 56) * 56).tolist()
    is_here = batch["image_of_view"] == index
    person = batch["person_of_view"][is_here]
    per_view = ("crop_to_img", "intrinsics_of_view", "keypoints_crop")
    per_person = ("keypoints_world", "has_pose", "has_betas", "has_transl", "has_exact_labels")
    body = batch["body"]
    return {
        **{name: batch[name][is_here] for name in per_view},
        **{name: batch[name][person] for name in per_person},
        "body": replace(body, **{name: value[person] for name, value in vars(body).items()}),
        "image": batch["image"][index : index + 1, :, :height, :width],
        "input_size": batch["input_size"][index : index + 1],
        "world_to_camera": batch["world_to_camera"][index : index + 1],
        "image_of_view": torch.zeros(len(person), dtype=torch.int64),
        "person_of_view": torch.arange(len(person)),
    }


# ------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("num_levels", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_every_part_of_an_image_is_in_exactly_one_token(num_levels, seed):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([[168, 224], [56, 200], [224, 100]])
    cells = tokens.cells_of(size, 28, 56, (8, 8))
    people = (torch.rand(len(cells.row), 2, generator=generator) - 0.25).clamp(min=0)
    selection = tokens.select(people, with_pooling=num_levels > 2)
    fine = tokens.children(cells.pick(selection.fine))
    parts = [(fine, 0), (cells.pick(selection.kept), 1)]
    if num_levels > 2:
        values = torch.zeros(len(cells.row), 4)
        pooled = tokens.pool(values, cells, selection.background, num_levels)
        parts += [(part.cells, part.level) for part in pooled]
    seen = np.zeros((3, 16, 16), int)  # patches of 14 px
    for places, level in parts:
        for image, row, column in torch.stack(places, dim=1).tolist():
            side = 1 << level
            seen[image, row * side : (row + 1) * side, column * side : (column + 1) * side] += 1
    for image, (height, width) in enumerate((-(-size // 56) * 4).tolist()):
        assert (seen[image, :height, :width] == 1).all()
        assert seen[image].sum() == height * width


def test_small_people_get_fine_tokens_large_ones_coarse_ones_and_background_is_pooled():
    cells = tokens.cells_of(torch.tensor([[56, 168]]), 28, 56, (2, 6))
    scale_map = torch.zeros(12, 2)
    scale_map[0] = torch.tensor([0.9, 0.1])  # somebody small in the first block
    scale_map[4] = torch.tensor([0.9, 0.8])  # somebody large in the second
    selection = tokens.select(scale_map)
    assert selection.fine.tolist() == [0]
    assert selection.kept.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert selection.background.tolist() == [2]
    values = torch.arange(12.0)[:, None]
    (pooled,) = tokens.pool(values, cells, selection.background, 3)
    assert pooled.values.tolist() == [[11.0]]
    assert torch.stack(pooled.cells).T.tolist() == [[0, 0, 2]]


def test_the_nearest_person_of_a_cell_gives_its_scale_and_nobody_behind_the_camera_does():
    cells = tokens.cells_of(torch.tensor([[56, 56]]), 28, 56, (2, 2))
    points = torch.tensor([[[10.0, 10]], [[12.0, 12]], [[40.0, 40]], [[500.0, -5]]])
    people = tokens.People(
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
        torch.tensor([9.0, 2.0, 1.0, 3.0]),
    )
    is_seen = torch.tensor([[True], [True], [False], [True]])
    size = torch.tensor([[56, 56]])
    found = tokens.scale_map(points, is_seen, people, size, cells, (2, 2))
    expected = [[1, 0.2], [1, 0.4], [0, 0], [0, 0]]  # who is cut off has a cell at the border
    torch.testing.assert_close(found, torch.tensor(expected))


# ----------------------------------------------------------------------------------- network


@pytest.mark.parametrize("encoder", ["adaptive", "convolutions", "plain"])
def test_gradients_reach_every_trainable_parameter(body_model, encoder):
    net, batch = make_net(body_model, encoder), labelled_scenes(body_model, SIZES, [3, 2])
    net.label_map_steps = 1  # the labels have people of all sizes and background
    for head in net.decoder.box_heads:  # zero before training
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    total(make_loss()(net(batch, body_model), batch, body_model)).backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("encoder", ["adaptive", "convolutions", "plain"])
def test_images_are_independent_of_their_batch(body_model, encoder):
    batch = labelled_scenes(body_model, [*SIZES, (56, 60)], [1, 1, 0])
    net = make_net(body_model, encoder).eval()
    together = net(batch, body_model)
    for image in range(3):
        alone = net(one_image(batch, image), body_model)
        rows = together.image_of_person == image
        torch.testing.assert_close(together.score[rows], alone.score, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(together.transl_cam[rows], alone.transl_cam)
        torch.testing.assert_close(together.body.body_pose[rows], alone.body.body_pose)
        own = together.extra["tokens"][:, 0] == image
        assert torch.equal(together.extra["tokens"][own, 1:], alone.extra["tokens"][:, 1:])


def test_denoising_does_not_depend_on_the_crowd_of_a_batch_mate(body_model):
    batch = labelled_scenes(body_model, SIZES, [5, 1])
    net = make_net(body_model)
    net.denoiser.box_noise = net.denoiser.parameter_noise = 0.0
    together, alone = net(batch, body_model), net(one_image(batch, 1), body_model)
    assert together.extra["dn_is_used"].sum(dim=1).tolist() == [20, 4]
    mine = together.extra["dn_slot"][:, 5] - 20  # of the second image, which has 20 slots too
    for name in ("dn_score", "dn_box", "dn_pose6d"):
        torch.testing.assert_close(
            together.extra[name][1, mine], alone.extra[name][0, alone.extra["dn_slot"][:, 0]]
        )


def test_ordinary_queries_do_not_see_the_noised_labels(body_model):
    batch = labelled_scenes(body_model, SIZES, [3, 2])
    torch.manual_seed(1)
    net = make_net(body_model)
    first, second = net(batch, body_model), net(batch, body_model)
    assert not torch.equal(first.extra["dn_score"], second.extra["dn_score"])
    torch.testing.assert_close(first.score, second.score, atol=1e-6, rtol=1e-5)


def test_queries_can_look_around_their_boxes_from_the_first_step(body_model):
    torch.manual_seed(0)
    decoder = Decoder(32, depth=2, num_heads=2, mlp_dim=32, begins_nearby=True)
    side = (torch.arange(12) + 0.5) / 12
    y, x = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    values, positions = torch.randn(144, 32), sine_encoding(y, x, 32)
    box = torch.tensor([0.3, 0.4, 0.2, 0.4])  # centre x and y, width, height

    def decoded(values):
        content, box_logit = torch.ones(1, 1, 32), logit(box).view(1, 1, 4)
        return decoder(content, box_logit, Memory(values, positions, [144]), None).hidden

    distance = torch.hypot(x - box[0], y - box[1])
    change = []
    for token in (distance.argmin(), distance.argmax()):
        moved = values.index_add(0, token[None], torch.randn(1, 32))
        change.append((decoded(moved) - decoded(values)).norm())
    assert change[0] > 20 * change[1]


def test_a_frozen_stem_begins_as_the_quick_starts_and_stays_so():
    stem = ConvStem(8, is_frozen=True)
    set_initial_weights(stem, {"blocks": {"_target_": "hmrkit.layers.convnet.read_stem"}})
    before = {name: value.clone() for name, value in stem.blocks.state_dict().items()}
    assert before["0.1.running_var"].std() > 0  # it has seen pictures
    places = tokens.Cells(*(torch.zeros(1, dtype=torch.int64) for _ in range(3)))
    stem.train()(torch.randn(2, 3, 56, 56), places, None).sum().backward()
    assert all(torch.equal(value, before[n]) for n, value in stem.blocks.state_dict().items())
    assert [n for n, p in stem.named_parameters() if p.grad is not None] == [
        "proj.weight",
        "proj.bias",
    ]


def test_everybody_is_before_the_camera_of_the_image(body_model):
    batch = labelled_scenes(body_model, SIZES, [1, 1])
    prediction = make_net(body_model).eval()(batch, body_model)
    focal_px = prediction.intrinsics_crop[:, 0, 0] * batch["input_size"][
        prediction.image_of_person, 1
    ] / 2  # fmt: skip
    torch.testing.assert_close(
        focal_px, torch.full_like(focal_px, SIDE / (2 * math.tan(math.pi / 6)))
    )
    assert (prediction.transl_cam[:, 2] > 0.8).all()
    assert prediction.score.max() < 0.05  # nobody is there before there was training
    assert not prediction.stages


def test_labels_choose_the_tokens_in_the_first_steps_only(body_model):
    batch = labelled_scenes(body_model, SIZES, [3, 2])
    net = make_net(body_model, label_map_steps=1)
    counts = []
    for _ in range(2):
        extra = net(batch, body_model).extra
        levels = extra["tokens"][:, 1].bincount(minlength=3)
        chosen = tokens.select(extra["label_map"])
        counts.append((levels[0] == 4 * len(chosen.fine), levels[2] == len(chosen.background)))
    assert [all(count) for count in counts] == [True, False]
    assert net.num_steps == 2


def test_an_image_that_does_not_fit_is_refused(body_model):
    net = make_net(body_model).eval()
    size = torch.tensor([[64, 64]])
    with pytest.raises(ValueError, match=r"64x64, but .* multiples of 56 up to 224"):
        net({"image": torch.zeros(1, 3, 64, 64), "input_size": size}, body_model)
    with pytest.raises(ValueError, match=r"data\.cut.long_side_px=224"):
        net({"image": torch.zeros(1, 3, 280, 56), "input_size": size}, body_model)


def test_records_become_scenes_become_a_training_step(body_model):
    cut = Scenes(SIDE, size_divisor=56)
    batch = collate([cut(make_record(i, i + 1, size_hw=(300, 200 + 100 * i))) for i in range(2)])
    batch["image"] = normalize_image(batch["image"])
    batch["has_exact_labels"] = torch.ones(3, dtype=torch.bool)
    net = make_net(body_model)
    terms = make_loss()(net(batch, body_model), batch, body_model)
    assert all(value.isfinite() for value in terms.values())
    assert terms["keypoints2d"] > 0


def test_bfloat16_autocast_stays_close(body_model):
    batch = labelled_scenes(body_model, SIZES, [3, 2])
    net = make_net(body_model, denoiser=False, label_map_steps=2)  # the same tokens in both
    exact = net(batch, body_model)
    exact_terms = make_loss()(exact, batch, body_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(batch, body_model)
        terms = make_loss()(rough, batch, body_model)
    assert rough.body.body_pose.dtype == rough.transl_cam.dtype == torch.float32
    assert (rough.body.body_pose - exact.body.body_pose).abs().max() < 0.1
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact_terms[name].item(), rel=0.1, abs=1e-2), name


@pytest.mark.slow
def test_compiled_equals_eager(body_model):
    batch = labelled_scenes(body_model, SIZES, [1, 1])
    net = make_net(body_model, depth=2).eval()
    expected = net(batch, body_model)
    found = torch.compile(net, backend="aot_eager")(batch, body_model)
    torch.testing.assert_close(found.body.body_pose, expected.body.body_pose, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.score, expected.score, atol=1e-5, rtol=1e-3)


# -------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("num_people", [[0, 0], [0, 2], [30, 1]])
def test_empty_images_and_crowds_can_step(body_model, num_people):
    batch = labelled_scenes(body_model, SIZES, num_people)
    net = make_net(body_model)
    total(make_loss()(net(batch, body_model), batch, body_model)).backward()
    grads = [p.grad for p in net.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_a_training_step_edits_none_of_its_inputs(body_model):
    net, batch = make_net(body_model), labelled_scenes(body_model, SIZES, [3, 2])
    flat = {**batch, **vars(batch["body"])}
    before = {name: value.clone() for name, value in flat.items() if torch.is_tensor(value)}
    make_loss()(net(batch, body_model), batch, body_model)
    assert all(torch.equal(flat[name], value) for name, value in before.items())


def test_whoever_is_as_the_label_says_costs_nothing(body_model):
    labels = scene_labels(labelled_scenes(body_model, SIZES, [3, 2]), SIDE)
    people = Estimates(
        labels.rotmats,
        labels.betas,
        labels.box,
        labels.points,
        labels.points_px,
        labels.depth / labels.focal_px,
    )
    values = person_values(people, labels, SIDE)
    assert all(value.abs().max() < 1e-4 for value in values.values())


def test_inexact_labels_count_in_the_image_alone(body_model):
    batch = labelled_scenes(body_model, SIZES, [3, 2])
    batch["has_exact_labels"] = torch.zeros(5, dtype=torch.bool)
    prediction = make_net(body_model)(batch, body_model)
    terms = make_loss(rotation=1.0)(prediction, batch, body_model)
    three_d = {"pose", "rotation", "betas", "keypoints3d", "depth"}
    three_d |= {f"dn_{name}" for name in three_d}
    assert all((value == 0) == (name in three_d) for name, value in terms.items())


def test_absent_labels_of_one_person_change_no_other_term(body_model):
    batch = labelled_scenes(body_model, SIZES, [3, 2])
    net = make_net(body_model, denoiser=False)
    prediction = net(batch, body_model)
    full = make_loss(rotation=1.0)(prediction, batch, body_model)
    garbage = batch["body"].body_pose.clone()
    garbage[0] = 100.0
    body = replace(batch["body"], body_pose=garbage)
    has_pose = torch.tensor([False, True, True, True, True])
    masked = {**batch, "has_pose": has_pose, "body": body}
    terms = make_loss(rotation=1.0)(prediction, masked, body_model)
    assert {name for name in terms if terms[name] != full[name]} == {"pose", "rotation"}
    known = net(masked, body_model).extra["has_label_map"]
    assert (known == (prediction.extra["cells"][:, 0] == 1)).all()  # the first image is not known


def test_upstreams_sum_leaves_out_the_inner_denoising_terms(body_model):
    net, batch = make_net(body_model), labelled_scenes(body_model, SIZES, [3, 2])
    prediction = net(batch, body_model)
    ours, theirs = (
        make_loss(with_inner_denoising=inner)(prediction, batch, body_model)
        for inner in (True, False)
    )
    assert all(theirs[n] < ours[n] for n in ours if n.startswith("dn_"))
    assert all(theirs[n] == ours[n] for n in ours if not n.startswith("dn_"))


def test_unmatched_queries_can_be_spared_where_not_everybody_is_labelled(body_model):
    net, batch = make_net(body_model, denoiser=False), labelled_scenes(body_model, SIZES, [3, 2])
    batch["source"] = ["coco", "mpii"]
    prediction = net(batch, body_model)
    prediction.score = prediction.score.detach().requires_grad_()
    loss = make_loss(partly_labelled_sources=["mpii"])
    loss(prediction, batch, body_model)["confidence"].backward()
    is_pushed = (prediction.score.grad != 0).view(2, 8).sum(dim=1)
    assert is_pushed.tolist() == [8, 2]


def test_a_term_of_weight_zero_is_absent(body_model):
    net, batch = make_net(body_model), labelled_scenes(body_model, SIZES, [3, 2])
    prediction = net(batch, body_model)
    everything = make_loss()(prediction, batch, body_model)
    terms = make_loss(depth=0.0)(prediction, batch, body_model)
    assert everything.keys() - terms.keys() == {"depth", "dn_depth"}


def _half_step(rank: int, folder: str, queue) -> None:
    """One process of two: the gradient of its image."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    body_model = free_body()
    batch = one_image(labelled_scenes(body_model, SIZES, [3, 2]), rank)
    queue.put(_gradient(body_model, batch))
    distributed.barrier()
    distributed.destroy_process_group()


def _gradient(body_model, batch) -> np.ndarray:
    net = make_net(body_model)
    net.denoiser.box_noise = net.denoiser.parameter_noise = 0.0
    total(make_loss()(net(batch, body_model), batch, body_model)).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()]).numpy()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_both_images(body_model, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = multiprocessing.start_processes(
        _half_step, (str(tmp_path), queue), nprocs=2, join=False, start_method="spawn"
    )
    halves = [queue.get() for _ in range(2)]
    workers.join()
    whole = _gradient(body_model, labelled_scenes(body_model, SIZES, [3, 2]))
    mean = (halves[0] + halves[1]) / 2
    assert np.abs(mean - whole).max() < 1e-4 * np.abs(whole).max()


# -------------------------------------------------------------------------------- checkpoints


def dinov2_file(dim: int = 32, depth: int = 3, side: int = 5) -> dict[str, torch.Tensor]:
    """A file in the layout of ``dinov2_vitb14_pretrain.pth``."""
    block = {
        **{f"{norm}.{leaf}": (dim,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")},
        "attn.qkv.weight": (3 * dim, dim),
        "attn.qkv.bias": (3 * dim,),
        "attn.proj.weight": (dim, dim),
        "attn.proj.bias": (dim,),
        "ls1.gamma": (dim,),
        "ls2.gamma": (dim,),
        "mlp.fc1.weight": (4 * dim, dim),
        "mlp.fc1.bias": (4 * dim,),
        "mlp.fc2.weight": (dim, 4 * dim),
        "mlp.fc2.bias": (dim,),
    }
    shapes = {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()}
    shapes |= {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + side * side, dim),
        "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, 14, 14),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    torch.manual_seed(5)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_dinov2_fills_the_encoder_and_the_norm_of_the_scale_head(body_model, tmp_path):
    net, official = make_net(body_model), dinov2_file()
    torch.save(official, tmp_path / "dinov2.pth")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reader = {
        "_target_": "hmrkit.models.sathmr.convert.read_dinov2",
        "path": str(tmp_path / "dinov2.pth"),
        "long_side_px": SIDE,
    }
    parts = ("encoder", "scale_head.norm")
    set_initial_weights(net, {part: {**reader, "part": part} for part in parts})
    changed = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {n for n in before if n.startswith(tuple(f"{part}." for part in parts))}
    own = net.encoder.map_blocks[0].attn.qkv.weight
    assert torch.equal(own, official["blocks.0.attn.qkv.weight"])
    corner = official["pos_embed"][0, 1]
    assert (net.encoder.positions[0, 0] - corner).abs().mean() < 0.3 * corner.abs().mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(extra=torch.zeros(1)), "'extra' has no place"),
        (lambda f: f.pop("pos_embed"), "not DINOv2's file: it holds blocks"),
        (lambda f: f.pop("blocks.1.ls1.gamma"), r"not 'blocks\.1\.ls1\.gamma'"),
    ],
)
def test_another_dinov2_file_is_refused(body_model, tmp_path, change, message):
    official = dinov2_file()
    change(official)
    torch.save(official, tmp_path / "dinov2.pth")
    reader = {
        "_target_": "hmrkit.models.sathmr.convert.read_dinov2",
        "path": str(tmp_path / "dinov2.pth"),
        "long_side_px": SIDE,
    }
    with pytest.raises(ValueError, match=message):
        set_initial_weights(make_net(body_model), {"encoder": reader})


def test_what_is_no_official_checkpoint_is_refused():
    with pytest.raises(ValueError, match="not a SAT-HMR checkpoint: it holds epoch, model"):
        convert.convert({"model": {}, "epoch": 3})
    with pytest.raises(ValueError, match=r"'head\.weight' has no place"):
        convert.convert({"encoder_pos_embeds": torch.zeros(4, 4, 8), "head.weight": 0})
