"""SAT-HMR's tokens, small functions, evaluation and drawings against the authors' numbers."""

import ast
import re
import zipfile
from types import SimpleNamespace

import fill
import numpy as np
import torch
from hydra.utils import instantiate
from parity_case import Case, body
from sathmr_data import DataCase, _boxes, _cameras
from sathmr_nets import Outputs, images_of, module_of, recorded_noise, together
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body import joints
from hmrkit.configs import load_config
from hmrkit.data.sources.pickles import read_pickle
from hmrkit.geometry.alignment import procrustes_align
from hmrkit.geometry.rotations import (
    axis_angle_to_rotmat,
    rot6d_interleaved_to_rotmat,
    rotmat_to_axis_angle,
)
from hmrkit.metrics import mpjpe_mm, pa_mpjpe_mm
from hmrkit.models.sathmr import tokens
from hmrkit.models.sathmr.convert import resize_positions
from hmrkit.models.sathmr.denoising import Denoiser, attention_mask
from hmrkit.models.sathmr.encoder import halve_positions, patches_of
from hmrkit.models.sathmr.labels import SceneLabels, label_map, scene_labels
from hmrkit.models.sathmr.matcher import focal, giou
from hmrkit.models.sathmr.pictures import draw_boxes, draw_scale_map, draw_tokens, pad_to_square
from hmrkit.models.sathmr.positions import logit, sine_encoding
from hmrkit.scene_evaluation import (
    detection_scores,
    keypoint_overlap,
    match_people,
    normalized_error,
)
from hmrkit.submission import person_files, write_archive
from hmrkit.types import Body


class Identity(nn.Module):
    """Stands for a block and remembers what came in."""

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        self.rows = rows
        return rows


def check_sat_tokens(case: Case, tmp_path):
    """Which tokens a given scale map leaves, with blocks that do nothing."""
    outputs = Outputs(case)
    options = case.config["overrides_of_official"]
    for variant in dict.fromkeys(name.partition(".")[0] for name in outputs.specs):
        images = list(images_of(case, variant))
        num_levels = int(variant.removeprefix("lvl"))
        side = max(max(image.shape) for image in images) // 14
        shapes = {
            "level_embed": [num_levels, options["hidden_dim"]],
            "encoder_pos_embeds": [side, side, case.config["encoder"]["embed_dim"]],
        }
        net = module_of(case, tmp_path, shapes=shapes).net
        encoder, depth = net.encoder, net.encoder.map_depth
        encoder.blocks = nn.ModuleList(Identity() for _ in encoder.blocks)
        encoder.map_blocks = nn.ModuleList(Identity() for _ in encoder.map_blocks)
        size = torch.tensor([image.shape[1:] for image in images])
        given = [f"{variant}.scale_map{i}" for i in range(len(images))]
        given = [n if n in case.arrays else n.partition(".")[2] for n in given]
        scale_map = torch.cat([case.tensor(name) for name in given])
        for prefix in (variant, f"{variant}.train"):
            net.train(prefix != variant)
            cells, _ = net._cells(together(images), size)
            encoded = encoder(together(images), cells, lambda coarse, m=scale_map: (m, m))
            actual = {
                "lens": torch.tensor(encoded.counts),
                "lvl": encoded.level,
                "pos_y": (encoded.cells.row + 0.5) * encoded.cell_px / net.long_side_px,
                "pos_x": (encoded.cells.column + 0.5) * encoded.cell_px / net.long_side_px,
                "pos_embeds": net._memory(encoded).positions,
                "stage1": encoder.map_blocks[0].rows,
                "stage2": encoder.blocks[0].rows,
                "merged": encoder.blocks[depth].rows,
            }
            for name, value in actual.items():
                if f"{prefix}.{name}" in outputs.specs:
                    outputs.check(f"{prefix}.{name}", value)
    outputs.finish()


def check_pieces(case: Case, tmp_path):
    """Small functions on their own."""
    outputs = Outputs(case)
    for check in (_rotations, _positions, _boxes_and_losses, _denoising, _bodies, _alignment):
        check(case, outputs)
    outputs.finish()
    _optimizer_groups(case)


def _rotations(case: Case, outputs: Outputs) -> None:
    """Half turns are compared as rotations; what all zeros become is none, but half a turn long."""
    rotmat = rot6d_interleaved_to_rotmat(case.tensor("rot6d").view(-1, 6))
    outputs.check("rot6d.rotmat", rotmat)
    shape = case.arrays["rot6d.axis_angle"].shape
    outputs.check("rot6d.axis_angle", rotmat_to_axis_angle(rotmat).view(shape))
    special = case.tensor("rot6d_special").view(-1, 6)
    ours = rotmat_to_axis_angle(rot6d_interleaved_to_rotmat(special))
    theirs = case.tensor("rot6d_special.axis_angle").view(-1, 3)
    is_rotation = special.any(dim=1)
    np.testing.assert_allclose(ours.norm(dim=1), theirs.norm(dim=1), atol=1e-5)
    pair = (axis_angle_to_rotmat(angles[is_rotation]) for angles in (ours, theirs))
    np.testing.assert_allclose(*pair, atol=1e-5)
    outputs.unchecked.discard("rot6d_special.axis_angle")


def _positions(case: Case, outputs: Outputs) -> None:
    x, y = case.tensor("pe.x"), case.tensor("pe.y")
    outputs.check("pe", sine_encoding(y, x, outputs.specs["pe"]["shape"][1]))
    side = outputs.specs["z_map6"]["shape"][0]
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    outputs.check("z_map6", tokens.morton_code(row, column))
    rows, columns, channels = _shape(case, "zorder.in")
    values = torch.from_numpy(fill.unit("zo", (rows, columns, channels), case.salt))
    size = torch.tensor([[28 * rows, 28 * columns]])
    cells = tokens.cells_of(size, 28, 56, (rows, columns))
    outputs.check("zorder.values", cells.of(values[None]))
    outputs.check("zorder.index", tokens.morton_code(cells.row, cells.column))
    outputs.check("zorder.y", cells.row)
    outputs.check("zorder.x", cells.column)
    image = torch.from_numpy(fill.unit("patch.img", _shape(case, "patch.img"), case.salt))[None]
    coarse = patches_of(F.avg_pool2d(image, 2))
    outputs.check("patch.28_to_14", coarse.flatten(0, 2))
    rows, columns = coarse.shape[1:3]
    grid = [
        t.flatten()
        for t in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ]
    every = tokens.Cells(torch.zeros_like(grid[0]), *grid)
    fine = tokens.children(every).of(patches_of(image))  # (4 rows columns, 3, 14, 14)
    fine = fine.view(rows, columns, 2, 2, 3, 14, 14).permute(0, 1, 4, 2, 5, 3, 6)
    outputs.check("patch.28", fine.reshape(rows, columns, 3, 28, 28))
    dino = fill.unit("dino.pos_embed", _shape(case, "dino.pos_embed"), case.salt)
    side = outputs.specs["pos_table.92"]["shape"][0]
    table = resize_positions(torch.from_numpy(dino)[0, 1:], side)
    outputs.check("pos_table.92", table)
    outputs.check("pos_table.46", halve_positions(table))


def _shape(case: Case, name: str) -> list[int]:
    return next(spec["shape"] for spec in case.spec["inputs"] if spec["name"] == name)


def _boxes_and_losses(case: Case, outputs: Outputs) -> None:
    outputs.check("giou", giou(case.tensor("boxes1")[:, None], case.tensor("boxes2")))
    outputs.check("focal", focal(case.tensor("focal.p"), case.tensor("focal.t")).mean())
    outputs.check("inverse_sigmoid", logit(case.tensor("inverse_sigmoid.in")))


def _denoising(case: Case, outputs: Outputs) -> None:
    spec = case.spec["dn"]
    num_images = len(spec["persons"])
    denoiser = Denoiser(spec["hidden_dim"], spec["dn_number"], with_empty_slots=True)
    with torch.no_grad():
        for parameter in ("weight", "bias"):
            target = getattr(denoiser.embed, parameter)
            name = f"dn_enc.{parameter}"
            target.copy_(torch.from_numpy(fill.fill(name, target.shape, case.salt)))
    denoiser.draw = lambda num, like: recorded_noise(case)

    def joined(name: str) -> Tensor:
        return torch.cat([case.tensor(f"dn.{name}{i}") for i in range(num_images)])

    fields = dict.fromkeys(SceneLabels._fields) | {
        "image": torch.arange(num_images).repeat_interleave(torch.tensor(spec["persons"])),
        "box": joined("boxes"),
        "rotmats": axis_angle_to_rotmat(joined("poses").view(-1, 24, 3)),
        "betas": joined("betas"),
    }
    queries = denoiser(SceneLabels(**fields), num_images)
    assert queries.content.shape[1] == spec["pad_size"]
    outputs.check("dn.query_content", queries.content)
    outputs.check("dn.query_box", queries.box_logit)
    for mask in attention_mask(queries, spec["num_queries"])[:, 0]:
        outputs.check("dn.attn_mask", ~mask)


def _bodies(case: Case, outputs: Outputs) -> None:
    """Meshes of each gender, and the scale map that the neutral ones make."""
    poses = axis_angle_to_rotmat(case.tensor("smpl.poses").view(-1, 24, 3))
    label = Body(poses[:, 0], poses[:, 1:], case.tensor("smpl.betas"), torch.zeros(len(poses), 3))
    models = {gender: body(case.salt + salt) for gender, salt in GENDERS.items()}
    genders = outputs.specs["smpl.gendered.joints"]["meaning"]
    order = [word.strip(" '") for word in genders.partition("[")[2].rstrip("]").split(",")]
    for name, kinds in (("neutral", ["neutral"] * len(poses)), ("gendered", order)):
        every = {kind: models[kind](label) for kind in set(kinds)}
        points = {kind: models[kind].joints_from_mesh(every[kind], "smpl45") for kind in every}
        rows = list(enumerate(kinds))
        outputs.check(f"smpl.{name}.joints", torch.stack([points[k][i] for i, k in rows]))
        verts = torch.stack([every[k].vertices[i] for i, k in rows])
        outputs.check(f"smpl.{name}.verts", verts)
    vertices = [joints.SOURCES[name].index for name in joints.names("smpl45")[24:]]
    outputs.check("smpl.extra_joint_vertices", np.array(vertices))
    _scale_maps(case, outputs, models["neutral"], models["neutral"](label).vertices)


GENDERS = {"neutral": "", "male": "/male", "female": "/female"}


def _scale_maps(case: Case, outputs: Outputs, model, vertices: Tensor) -> None:
    text = next(s for s in case.spec["inputs"] if s["name"] == "scale_map_gt.scales")["meaning"]
    shift = torch.tensor(_literal(r"translations (\[\[.*?\]\])", text))
    size_of_focal, center = _literal(r"f=(\d+)", text), _literal(r"c=(\(.*?\))", text)
    zoomed = outputs.specs["scale_map_gt.per_person_camera"]["meaning"]
    points = tokens.surface_points(vertices[: len(shift)] + shift[:, None], _edges(model))
    scales = case.tensor("scale_map_gt.scales")
    nobody_behind = torch.ones(points.shape[:2], dtype=torch.bool)
    for name, zoom, (rows, columns) in (
        ("scale_map_gt", [1] * len(shift), _literal(r"map (\(.*?\))", text)),
        (
            "scale_map_gt.per_person_camera",
            _literal(r"focal x (\[.*?\])", zoomed),
            _literal(r"map size (\(.*?\))", zoomed),
        ),
    ):
        focal_px = size_of_focal * torch.tensor(zoom)[:, None, None]
        points_px = points[..., :2] / points[..., 2:] * focal_px + torch.tensor(center)
        size = torch.tensor([[28 * rows, 28 * columns]])
        shape = outputs.specs[name]["shape"]
        cells = tokens.cells_of(size, 28, 56, tuple(shape[:2]))
        painted_last = torch.arange(len(scales), 0, -1.0)  # is the nearest
        people = tokens.People(torch.zeros(len(scales), dtype=torch.int64), scales, painted_last)
        found = tokens.scale_map(points_px, nobody_behind, people, size, cells, tuple(shape[:2]))
        grid = torch.zeros(shape)
        grid[cells.row, cells.column] = found
        outputs.check(name, grid)


def _literal(pattern: str, text: str):
    """A number or list in a sentence of the case."""
    return ast.literal_eval(re.search(pattern, text)[1])


def _edges(model) -> Tensor:
    return tokens.mesh_edges(torch.as_tensor(model.faces))


def _alignment(case: Case, outputs: Outputs) -> None:
    a, b = case.tensor("pa.a"), case.tensor("pa.b")
    outputs.check("pa.aligned", procrustes_align(a, b))
    mirrored = a * torch.tensor([-1.0, 1.0, 1.0])
    outputs.check("pa.aligned_mirrored", procrustes_align(mirrored, a))


def _optimizer_groups(case: Case) -> None:
    """What they train at the lower rate is our ``encoder``, with the same number of weights."""
    spec = case.spec["optim"]
    nothing = SimpleNamespace(
        mean_pose=np.zeros((24, 3, 3)), mean_betas=np.zeros(10), faces=np.zeros((1, 3), np.int64)
    )
    config = load_config("train", ["model=sathmr", "data=scenes", "run_dir=run"])
    net = instantiate(config.model.net, body_model=nothing, _convert_="all")
    numbers = {"encoder": [], "rest": []}
    for name, parameter in net.named_parameters():
        numbers["encoder" if name.startswith("encoder.") else "rest"].append(parameter.numel())
    assert len(numbers["encoder"]) == spec["group_lr_encoder_count"]
    assert len(numbers["rest"]) == spec["group_lr_count"]
    assert sum(numbers["encoder"]) == spec["group_lr_encoder_elements"]
    assert sum(map(sum, numbers.values())) == spec["all_elements"]


def check_evaluation(case: Case, tmp_path):
    """The matching rule, every person's errors, the printed scores and the submission's files."""
    outputs = Outputs(case)
    _greedy(case, outputs)
    for threshold in case.config["conf_thresh"]:
        images = [MadeImage(case, number, threshold) for number in range(len(case.spec["plan"]))]
        for protocol in ("agora", "3dpw"):
            _protocol(case, outputs, images, protocol, f"{protocol}.thr{threshold}")
        if threshold == max(case.config["conf_thresh"]):
            kids = _printed(case, images, "agora", lambda person: person % 2 == 0)
            adults = case.spec["printed"][f"agora.thr{threshold}"]
            expected = case.spec["printed"]["agora_train_with_kid"]
            assert {**adults, **{_kid(name): v for name, v in kids.items()}} == expected
            _submission(case, outputs, images, tmp_path)
    outputs.finish()


def _kid(name: str) -> str:
    return f"kid_{name}" if name.islower() else f"kid-{name}"


class MadeImage:
    """People of one image and what a stub network predicts, by the case's rules.

    Attributes:
        labels: ``verts``, ``j3ds``, ``j2ds`` and ``transl`` of everybody.
        predicted: the same of the queries above the threshold, ``pose`` and ``betas``.
    """

    def __init__(self, case: Case, number: int, threshold: float):
        self.case, self.number = case, number
        num_people, queries = case.spec["plan"][number]
        self.labels = self._people(num_people)
        chosen = [(q, *row) for q, row in enumerate(queries) if row[2] > threshold]
        rows = [self._query(*row) for row in chosen]
        self.predicted = {
            name: torch.stack([row[name] for row in rows]) if rows else values[:0]
            for name, values in self.labels.items()
        }
        index = [row[0] for row in chosen]
        num_queries = case.config["num_queries"]
        self.predicted["pose"] = 0.3 * self._unit("poses", num_queries, 72)[index]
        self.predicted["betas"] = 0.5 * self._unit("betas", num_queries, 10)[index]
        pair = (self.predicted["j2ds"][:, :24], self.labels["j2ds"][:, :24])
        self.matches = match_people(*pair)

    def _unit(self, name: str, *shape: int) -> Tensor:
        return torch.from_numpy(fill.unit(f"i{self.number}.{name}", shape, self.case.salt))

    def _people(self, num: int) -> dict[str, Tensor]:
        person = torch.arange(num)[:, None]
        place = torch.cat([1.6 * (person - (num - 1) / 2), 0.0 * person, 0.0 * person + 5], dim=1)
        transl = place + 0.1 * self._unit("gt.t", num, 3)
        shape = torch.tensor([1, 2, 0.6])
        verts = 0.3 * self._unit("gt.v", num, 6890, 3) * shape + transl[:, None]
        points = 0.3 * self._unit("gt.j", num, 45, 3) * shape + transl[:, None]
        return {"verts": verts, "j3ds": points, "j2ds": _seen(points), "transl": transl}

    def _query(self, query: int, person: int, noise: float, score: float) -> dict[str, Tensor]:
        def unit(name: str, *shape: int) -> Tensor:
            return self._unit(f"q{query}.{name}", *shape)

        if person < 0:
            transl = torch.tensor([-3.0 + 6 * (-person - 1), 2.0, 6.0])
            verts, points = 0.3 * unit("v", 6890, 3) + transl, 0.3 * unit("j", 45, 3) + transl
            return {"verts": verts, "j3ds": points, "j2ds": _seen(points), "transl": transl}
        label = {name: values[person] for name, values in self.labels.items()}
        shift = label["transl"] + torch.tensor([0.3 * noise, 0, 0.4])

        def moved(points: Tensor, name: str) -> Tensor:
            grown = (points - label["transl"]) * (1 + 0.5 * noise)
            return grown + noise * unit(name, *points.shape) + shift

        return {
            "verts": moved(label["verts"], "v"),
            "j3ds": moved(label["j3ds"], "j"),
            "j2ds": label["j2ds"] + 40 * noise * unit("k", 45, 2),
            "transl": shift,
        }


def _seen(points: Tensor) -> Tensor:
    return 1000 * points[..., :2] / points[..., 2:] + torch.tensor([644.0, 362.0])


def _rows(matches) -> Tensor:
    """(prediction, label), (prediction, -2) for nobody, (-1, label) for missed people."""
    nobody, missed = matches.false_positive, matches.missed
    rows = [
        torch.stack([matches.prediction, matches.label], dim=1),
        torch.stack([nobody, torch.full_like(nobody, -2)], dim=1),
        torch.stack([torch.full_like(missed, -1), missed], dim=1),
    ]
    return torch.cat(rows)


def _greedy(case: Case, outputs: Outputs) -> None:
    predicted, labels = case.tensor("greedy.pred"), case.tensor("greedy.gt")
    outputs.check("greedy.match", _rows(match_people(predicted, labels)))
    two = _rows(match_people(predicted[:2], labels))
    outputs.check("greedy.match_two_predictions", two)
    crowd = match_people(case.tensor("greedy.crowd.pred"), case.tensor("greedy.crowd.gt"))
    outputs.check("greedy.crowd.match", _rows(crowd))
    outputs.check("overlap", keypoint_overlap(predicted, labels))


def _protocol(case, outputs: Outputs, images: list[MadeImage], protocol: str, name: str) -> None:
    rows = [_rows(image.matches) for image in images]
    numbers = [torch.full_like(row[:, :1], i) for i, row in enumerate(rows)]
    with_image = [torch.cat(pair, dim=1) for pair in zip(numbers, rows, strict=True)]
    outputs.check(f"{name}.match", torch.cat(with_image))
    outputs.check(f"{name}.errors", torch.cat([_errors(case, i, protocol) for i in images]))
    printed = _printed(case, images, protocol, lambda person: True)
    expected = case.spec["printed"][name]
    assert {key: printed[key] for key in expected} == expected


def _errors(case: Case, image: MadeImage, protocol: str) -> Tensor:
    """(K, 2, 2) mm: joints and vertices, plain and aligned, in the order of the labels."""
    order = image.matches.label.argsort()
    rows = (image.matches.prediction[order], image.matches.label[order])
    sides = []
    for people, row in zip((image.predicted, image.labels), rows, strict=True):
        verts = people["verts"][row]
        if protocol == "agora":
            points, used = people["j3ds"][row, :24], torch.arange(verts.shape[1]) % 3 > 0
            root = points[:, joints.index(["left_hip", "right_hip"], "smpl24")].mean(dim=1)
            verts = verts[:, used]
        else:
            regressor = fill.joint_regressor("J_regressor_h36m_correct", 17, case.salt)
            transl = people["transl"][row][:, None]
            points = torch.from_numpy(regressor) @ (verts - transl) + transl
            root = points[:, 0]
            points = points[:, [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]]
        sides.append((points - root[:, None], verts - root[:, None]))
    errors = []
    for predicted, label in zip(*sides, strict=True):
        label = torch.cat([label, torch.ones_like(label[..., :1])], dim=-1)
        pair = (mpjpe_mm(predicted, label, None), pa_mpjpe_mm(predicted, label))
        errors.append(torch.stack(pair, dim=1))
    return torch.stack(errors, dim=1)


def _printed(case: Case, images: list[MadeImage], protocol: str, counts) -> dict[str, float]:
    """The scores of the people that count; false positives are everybody's."""
    errors = [_errors(case, image, protocol) for image in images]
    found = [image.matches.label.sort().values for image in images]
    kept = [e[[counts(p) for p in f.tolist()]] for e, f in zip(errors, found, strict=True)]
    kept = torch.cat(kept)
    missed = [p for image in images for p in image.matches.missed.tolist() if counts(p)]
    num_false = sum(len(image.matches.false_positive) for image in images)
    scores = detection_scores(len(kept), num_false, len(missed))
    (joint, aligned_joint), (vertex, aligned_vertex) = kept.double().mean(dim=0).tolist()
    if protocol == "agora":
        return {
            **scores._asdict(),
            "MPJPE": round(joint, 1),
            "NMJE": normalized_error(joint, scores.f1),
            "MVE": round(vertex, 1),
            "NMVE": normalized_error(vertex, scores.f1),
        }
    return {
        "recall": scores.recall,
        "MPJPE": round(joint, 1),
        "PA-MPJPE": round(aligned_joint, 1),
        "MVE": round(vertex, 1),
        "PA-MVE": round(aligned_vertex, 1),
    }


def _submission(case: Case, outputs: Outputs, images: list[MadeImage], tmp_path) -> None:
    names = case.spec["submission_names"]
    stems = {i: n.partition("/")[2].partition("_personId")[0] for n in names for i in [_number(n)]}
    files = {}
    for number, stem in stems.items():
        people = {name: values.numpy() for name, values in images[number].predicted.items()}
        pose = people["pose"].reshape(-1, 24, 3)
        files |= person_files(
            stem, people["j2ds"][:, :24], pose, people["betas"], case.config["input_size"]
        )
    write_archive(tmp_path / "submission.zip", files)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(names)
        for name in names:
            path = tmp_path / "person.pkl"
            path.write_bytes(archive.read(name))
            content = read_pickle(path)
            flat = {"joints": content["joints"]}
            flat |= {f"params.{key}": value for key, value in content["params"].items()}
            layout = {key: [str(v.shape), str(v.dtype)] for key, v in flat.items()}
            assert layout == case.spec["submission_layout"]
            stem = name.partition("/")[2].removesuffix(".pkl")
            for key, value in flat.items():
                recorded = f"submission.{stem}.{key.removeprefix('params.')}"
                if recorded in outputs.specs:
                    outputs.check(recorded, value)


def _number(name: str) -> int:
    return int(name.split("_")[1])


LONG_SIDE = 1288  # px, of the recipe in sathmr_data
MOST_FLIPPED = 0.002  # of the cells: rounding of a projection may cross a cell's border


def check_data(case: Case, tmp_path):
    """All that ``sathmr_data`` compares, and the scale maps of the batches' bodies."""
    checked = WithScaleMaps(case, tmp_path)
    for name in case.spec["scalars"]:
        checked.check_sample(name)
    checked.check_occlusions()
    assert not checked.unchecked, f"not compared: {sorted(checked.unchecked)}"


class WithScaleMaps(DataCase):
    """A case whose scale maps are compared too."""

    def __init__(self, case: Case, tmp_path):
        super().__init__(case, tmp_path)
        maps = {name for name in self.outputs if "scale_map" in name}
        self.unchecked |= maps

    def check_people(self, name: str, batch, is_flipped: bool) -> None:
        super().check_people(name, batch, is_flipped)
        vertices, points = self.pose(batch["body"], batch["gender"])
        size, yes = batch["input_size"], torch.ones_like(batch["has_pose"])
        labels = scene_labels({**batch, "has_exact_labels": yes}, LONG_SIDE)
        if is_flipped:  # the keypoints are those of the mirrored body, theirs of another one
            rays = np.einsum("pij,pkj->pki", _cameras(batch), points)
            box = torch.from_numpy(_boxes(rays[..., :2] / rays[..., 2:], size[0].numpy()))
            labels = labels._replace(box=box.float(), depth=torch.from_numpy(points[:, 0, 2]))
        surface = tokens.surface_points(torch.from_numpy(vertices), _edges(self.bodies[-1]))
        grid_hw = tuple((-(-size[0] // 56) * 2).tolist())
        cells = tokens.cells_of(size, 28, 56, grid_hw)
        found = label_map(surface, labels, size, cells, grid_hw)
        self.check_cells(f"{name}.scale_map", found.numpy())
        if f"{name}.scale_map_pos" in self.outputs:
            self.check(f"{name}.scale_map_pos", torch.stack([cells.row, cells.column]).numpy())
        recorded = self.case.spec["scalars"][name]
        assert list(grid_hw) == recorded.get("scale_map_hw", list(grid_hw))

    def check_cells(self, name: str, actual: np.ndarray) -> None:
        spec, expected = self.outputs[name], self.case.arrays[name]
        self.unchecked.discard(name)
        assert list(actual.shape) == spec["shape"], f"{name} is {actual.shape}"
        limit = spec["atol"] + spec["rtol"] * np.abs(expected)
        share = (np.abs(actual - expected) > limit).any(axis=1).mean()
        assert share <= MOST_FLIPPED, f"{name}: {share:.2%} of the cells differ"


def check_pictures(case: Case, tmp_path):
    """Boxes, scale map and tokens; the colours of meshes are the renderer's own."""
    outputs = Outputs(case)
    outputs.unchecked.discard("base_colors")
    side = case.config["input_size"]
    shape = _shape(case, "image")
    noise = 127 + 50 * fill.unit("img", shape, case.salt)
    image = pad_to_square(noise.clip(0, 255).astype(np.uint8)[..., ::-1], side)
    arrays = case.arrays
    level = arrays["tokens.lvl"]
    cell = case.config["patch_size"] * 2.0**level
    places = (arrays[f"tokens.pos_{axis}"] * side / cell - 0.5 for axis in "yx")
    places = np.stack([level, *(place.round().astype(int) for place in places)], axis=1)
    actual = {
        "boxes_img": draw_boxes(image, arrays["boxes"]),
        "scale_img": draw_scale_map(image, arrays["scale_map"]),
        "token_img": draw_tokens(image, places),
    }
    for name, drawn in actual.items():
        outputs.check(name, drawn[..., ::-1])
    outputs.finish()
