"""SAT-HMR's network, matching and losses against the authors' numbers."""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

import fill
import numpy as np
import torch
from parity_case import Case, body
from torch import Tensor

from hmrkit.body import joints
from hmrkit.checkpoints import load_official
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import (
    axis_angle_to_rotmat,
    rot6d_interleaved_to_rotmat,
    rotmat_to_axis_angle,
)
from hmrkit.keys import rename_keys
from hmrkit.models.sathmr import convert
from hmrkit.models.sathmr.denoising import Noise
from hmrkit.models.sathmr.labels import scene_labels
from hmrkit.models.sathmr.loss import (
    Noised,
    Queries,
    SATHMRLoss,
    denoising_terms,
    map_terms,
    ordinary,
    pair,
    query_terms,
)
from hmrkit.models.sathmr.matcher import CostWeights
from hmrkit.models.sathmr.people import Estimates
from hmrkit.module import HMRModule
from hmrkit.types import Batch, Body, Prediction

SMPL45 = joints.index(joints.names("smpl45"), "all")
# Their terms and ours.
TERMS = {
    "confs": "confidence",
    "boxes": "box",
    "giou": "giou",
    "poses": "pose",
    "betas": "betas",
    "j3ds": "keypoints3d",
    "j2ds": "keypoints2d",
    "depths": "depth",
    "map_confs": "map_confidence",
    "map_scales": "map_scale",
}
PARTS = {"boxes": ("boxes", "giou"), "scale_map": ("map_confs", "map_scales")}
# Their options that weights do not tell, and ours.
OPTIONS = {
    "get_map_layer": "model.net.encoder.map_depth",
    "num_lvls": "model.net.encoder.num_levels",
    "conf_thresh": "model.net.encoder.conf_threshold",
    "scale_thresh": "model.net.encoder.scale_threshold",
    "dn_number": "model.net.denoiser.num_groups",
}
# Those that weights do tell.
KNOWN = {"input_size", "hidden_dim", "dec_layers", "dim_feedforward", "num_queries"}
KNOWN |= {"use_sat", "use_additional_blocks", "lvl_embed", "use_dn"}
GARBAGE = 7.0  # pixels that belong to no image


class Outputs:
    """The recorded outputs of a case; each must be compared once."""

    def __init__(self, case: Case):
        self.case = case
        self.specs = {spec["name"]: spec for spec in case.spec["outputs"]}
        self.unchecked = set(self.specs)

    def check(self, name: str, actual) -> None:
        """Compare at the tolerance, and with the subsampling, that the case states."""
        spec, expected = self.specs[name], self.case.arrays[name]
        self.unchecked.discard(name)
        actual = actual.detach().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        subsampled = re.search(
            r"reshape\(-1\)\[::(\d+)\](\[:(\d+)\])?", f"{spec['stored']} {spec['meaning']}"
        )
        if subsampled:
            actual = actual.reshape(-1)[:: int(subsampled[1])]
            actual = actual[: int(subsampled[3] or len(actual))]
        else:
            assert list(actual.shape) == spec["shape"], f"{name}: {actual.shape}, {spec['shape']}"
        if spec.get("exact"):
            np.testing.assert_array_equal(actual, expected, err_msg=name)
        else:
            np.testing.assert_allclose(
                actual, expected, atol=spec["atol"], rtol=spec["rtol"], err_msg=name
            )

    def below(self, prefix: str) -> list[str]:
        return [name for name in self.specs if name.startswith(prefix)]

    def finish(self) -> None:
        assert not self.unchecked, f"not compared: {sorted(self.unchecked)}"


def official_state(
    case: Case,
    variant: str | None = None,
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The filled file of the authors; ``shapes`` replaces some of its table."""
    with gzip.open(case.path.with_name(case.spec["state_dict"]["file"]), "rt") as lines:
        table = json.load(lines)
    rules = case.spec["fill"]
    if variant is not None:
        table, rules = table[variant], rules[variant]
    sizes = {name: shapes.get(name, shape) for name, (shape, _) in table.items()}
    return {
        name: torch.from_numpy(_filled(case.salt, rules["exceptions"], name, shape, table[name][1]))
        for name, shape in sizes.items()
    }


def _filled(salt: str, rules: list[dict], name: str, shape: list[int], dtype: str) -> np.ndarray:
    rule = next((r for r in rules if any(fnmatchcase(name, p.strip()) for p in _patterns(r))), None)
    if rule is None:
        return fill.fill(name, shape, salt)
    match rule["op"]:
        case "alias":
            return _filled(salt, rules, name.removeprefix(rule["strip_prefix"]), shape, dtype)
        case "unit":
            return np.float32(rule["scale"]) * fill.unit(name, shape, salt)
        case "fill":
            added = np.float32(rule.get("add", 0))
            return np.float32(rule["scale"]) * fill.fill(name, shape, salt) + added
        case "array" if name == "mean_pose":
            identity = np.tile(np.float32([1, 0, 0, 1, 0, 0]), 24)
            return identity + np.float32(0.05) * fill.unit("smpl_mean_params.pose", (144,), salt)
        case "array" if name == "mean_shape":
            return np.float32(0.1) * fill.unit("smpl_mean_params.shape", (10,), salt)
        case "smpl" | "constructor":  # left behind on loading
            return np.zeros(shape, dtype)
    raise AssertionError(f"no rule {rule} for {name}")


def _patterns(rule: dict) -> list[str]:
    return rule["names"].split(",")


def module_of(
    case: Case,
    tmp_path,
    variant: str | None = None,
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> HMRModule:
    """The authors' file, written as they write it and loaded as users load it."""
    path = tmp_path / "official.pth"
    torch.save(official_state(case, variant, shapes), path)
    config = case.config
    options = dict(config.get("overrides_of_official", {}))
    if variant is not None:
        options["sat_cfg"] = {
            **options.get("sat_cfg", {}),
            **config["variants (sat_cfg overrides)"][variant],
        }
    flat = {**options, **options.get("sat_cfg", {}), **options.get("dn_cfg", {})}
    unknown = flat.keys() - KNOWN - OPTIONS.keys() - {"sat_cfg", "dn_cfg"}
    assert not unknown, f"options without a counterpart: {unknown}"
    overrides = ["model.net.denoiser.with_empty_slots=true"]
    overrides += [f"{ours}={flat[name]}" for name, ours in OPTIONS.items() if name in flat]
    return load_official("sathmr", path, body=body(case.salt), overrides=overrides)


def images_of(case: Case, variant: str | None = None) -> Iterator[Tensor]:
    """The case's images, (3, H, W) each."""
    for spec in case.spec["inputs"]:
        match = re.fullmatch(r"(?:(\w+)\.)?(image\d+)", spec["name"])
        if match is None or match[1] not in (None, variant):
            continue
        shape = re.search(r"\(1,3,(\d+),(\d+)\)", _how(spec["how"], variant))
        yield torch.from_numpy(
            fill.image(match[2], (1, 3, int(shape[1]), int(shape[2])), case.salt)[0]
        )


def _how(how: str, variant: str | None) -> str:
    """The clause for a variant, if there is one."""
    clauses = how.split(";")
    own = [clause for clause in clauses if f"for variant {variant} " in clause]
    return (own or clauses)[0]


def together(images: list[Tensor]) -> Tensor:
    """Images of different size in one tensor, what does not belong to them garbage."""
    height, width = np.max([image.shape[1:] for image in images], axis=0)
    batch = torch.full((len(images), 3, height, width), GARBAGE)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def sizes_of(case: Case, num: int, name: str = "img_size{}") -> Tensor:
    return torch.stack([case.tensor(name.format(i)) for i in range(num)])


def check_forward(case: Case, tmp_path):
    """Evaluation: every recorded tensor between the image and the people."""
    outputs = Outputs(case)
    variants = case.config.get("variants (sat_cfg overrides)", {None: {}})
    for variant in variants:
        module = module_of(case, tmp_path, variant)
        images = list(images_of(case, variant))
        size = sizes_of(case, len(images)).minimum(torch.tensor([i.shape[1:] for i in images]))
        seen = watch(module.net)
        with torch.no_grad():
            prediction = module.predict({"image": together(images), "input_size": size})
            prediction = replace(prediction, mesh=module.body(prediction.body))
        prefix = "" if variant is None else f"{variant}."
        actual = tensors_of(prediction, module, size) | {
            "encoder.features": seen["features"],
            "encoder.pos": seen["args"][2].positions,
            "decoder.hs": seen["decoded"].hidden,
            "decoder.reference": seen["decoded"].reference,
        }
        for name in outputs.below(prefix):
            if name.removeprefix(prefix) in actual:
                outputs.check(name, actual[name.removeprefix(prefix)])
    outputs.finish()


def watch(net) -> dict:
    """What the next forward pass does inside."""
    seen = {}
    net.feature_proj.register_forward_hook(lambda m, i, o: seen.update(features=o))
    net.decoder.register_forward_hook(lambda m, i, o: seen.update(args=i, decoded=o))
    return seen


def tensors_of(prediction: Prediction, module: HMRModule, size: Tensor) -> dict[str, Tensor]:
    """A prediction in the authors' terms, (I, Q, ...)."""
    num = len(size)

    def per_image(values: Tensor) -> Tensor:
        return values.unflatten(0, (num, -1))

    transl = prediction.transl_cam
    points = module.body.joints(prediction.body, "smpl45") + transl[:, None]
    image = prediction.image_of_person
    size_px = size[image].flip(-1)[:, None]
    rotmats = torch.cat([prediction.body.global_orient[:, None], prediction.body.body_pose], 1)
    intrinsics = prediction.intrinsics_crop.clone()
    half = torch.cat([size_px[:, 0] / 2, torch.ones(len(size_px), 1)], 1)
    intrinsics = half[..., None] * intrinsics
    intrinsics[:, :2, 2] += size_px[:, 0] / 2
    focal = intrinsics[:, 0, 0]
    token_image, level, row, column = prediction.extra["tokens"].T
    side = module.net.long_side_px / 14 / 2.0**level
    tensors = {
        "tokens.lens": token_image.bincount(minlength=num),
        "tokens.lvl": level,
        "tokens.pos_y": (row + 0.5) / side,
        "tokens.pos_x": (column + 0.5) / side,
        "pred_poses": per_image(rotmat_to_axis_angle(rotmats).flatten(1)),
        "pred_betas": per_image(prediction.body.betas),
        "pred_boxes": per_image(prediction.extra["box"]),
        "pred_confs": per_image(prediction.score[:, None]),
        "pred_j3ds": per_image(points),
        "pred_j2ds": per_image((project(points, prediction.intrinsics_crop) + 1) / 2 * size_px),
        "pred_transl": per_image(transl),
        "pred_depths": per_image(torch.stack([points[:, 0, 2], points[:, 0, 2] / focal], 1)),
        "pred_intrinsics": per_image(intrinsics)[:, :1],
    }
    if prediction.mesh is not None:
        tensors["pred_verts"] = per_image(prediction.mesh.vertices + transl[:, None])
    if "cells" in prediction.extra:
        cell_image, row, column = prediction.extra["cells"].T
        tensors |= {
            "scale_map": prediction.extra["scale_map"],
            "lvl1.lens": cell_image.bincount(minlength=num),
            "lvl1.hw": -(-size // 56) * 2,
            "lvl1.pos_y": row,
            "lvl1.pos_x": column,
        }
    return tensors


def check_train(case: Case, tmp_path):
    """One training step: people, matches, every term, both totals and their gradients."""
    outputs = Outputs(case)
    module = module_of(case, tmp_path)
    net = module.net.train()
    batch = training_batch(case, list(images_of(case)))
    if net.denoiser is not None:
        net.denoiser.draw = lambda num, like: recorded_noise(case)
    label_map = torch.cat(targets(case, "scale_map"))
    is_known = torch.ones(len(label_map), dtype=torch.bool)
    net._label_map = lambda *_: {"label_map": label_map, "has_label_map": is_known}
    net.label_map_steps = int(case.config["sat_use_gt"])
    prediction = module(batch)
    actual = tensors_of(prediction, module, batch["input_size"])
    if net.denoiser is not None:
        actual |= {f"dn.{name}": value for name, value in noised_tensors(prediction).items()}
    for name in outputs.below(""):
        if name in actual:
            outputs.check(name, actual[name])
    is_detached = case.config["detach_j3ds"]
    loss = SATHMRLoss(long_side_px=net.long_side_px, with_detached_joints=is_detached)
    check_matches(outputs, loss, prediction, batch, module)
    check_terms(outputs, loss.layer_terms(prediction, batch, module.body), "")
    named = dict(net.named_parameters())
    for prefix, inner in (("grad", False), ("grad_fixed", True)):
        if f"{prefix}.total_norm" not in outputs.specs:
            continue
        loss.with_inner_denoising = inner
        total = torch.stack(list(loss(prediction, batch, module.body).values())).sum()
        outputs.check(f"{prefix.replace('grad', 'loss')}.total", total)
        net.zero_grad()
        total.backward(retain_graph=True)
        check_gradients(outputs, named, prefix)
    outputs.finish()


def targets(case: Case, name: str) -> list[Tensor]:
    return [case.tensor(f"gt{i}.{name}") for i in range(len(case.spec["targets"]))]


def training_batch(case: Case, images: list[Tensor]) -> Batch:
    """The case's labels as a batch of scenes; its pixels are the source's."""
    num = [target["persons"] for target in case.spec["targets"]]
    image = torch.arange(len(num)).repeat_interleave(torch.tensor(num))
    size = torch.stack(targets(case, "img_size"))
    size_px = size[image].flip(-1).float()
    people = len(image)
    poses = torch.cat(targets(case, "poses")).view(-1, 24, 3)
    points_px, points = (torch.cat(targets(case, name)) for name in ("j2ds", "j3ds"))
    mask = torch.ones(people, 45)
    if "gt0.j2ds_mask" in case.arrays:
        mask = torch.cat(targets(case, "j2ds_mask"))[..., 0].float()
    keypoints_crop = torch.zeros(people, len(joints.names("all")), 3)
    points_crop = 2 * points_px / size_px[:, None] - 1
    keypoints_crop[:, SMPL45] = torch.cat([points_crop, mask[..., None]], dim=-1)
    keypoints_world = torch.zeros(people, len(joints.names("all")), 4)
    keypoints_world[:, SMPL45] = torch.cat([points, torch.ones(people, 45, 1)], dim=-1)
    crop_to_img = torch.diag_embed(size_px / 2)
    intrinsics = torch.eye(3).repeat(people, 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = torch.cat(targets(case, "focals"))
    rotmats = axis_angle_to_rotmat(poses)
    body_labels = Body(
        rotmats[:, 0], rotmats[:, 1:], torch.cat(targets(case, "betas")), torch.zeros(people, 3)
    )
    yes = torch.ones(people, dtype=torch.bool)
    is_exact = torch.tensor([target["3d_valid"] for target in case.spec["targets"]])
    return {
        "image": together(images) if images else torch.zeros(len(num), 3, 56, 56),
        "input_size": size,
        "image_of_view": image,
        "person_of_view": torch.arange(people),
        "crop_to_img": torch.cat([crop_to_img, size_px[..., None] / 2], dim=-1),
        "intrinsics_of_view": intrinsics,
        "world_to_camera": torch.eye(4).repeat(len(num), 1, 1),
        "keypoints_crop": keypoints_crop,
        "keypoints_world": keypoints_world,
        "body": body_labels,
        "has_pose": yes,
        "has_betas": yes,
        "has_transl": yes,
        "has_exact_labels": is_exact[image],
    }


def recorded_noise(case: Case) -> Noise:
    """Draws that the case gives, as arrays or by their rule."""
    values = []
    for kind in ("box", "param"):
        for name, is_sign in ((f"dn.{kind}_sign01", True), (f"dn.{kind}_rand", False)):
            spec = next(spec for spec in case.spec["inputs"] if spec["name"] == name)
            if name in case.arrays:
                values.append(case.tensor(name))
                continue
            unit = fill.unit(name.removesuffix("01"), spec["shape"], case.salt)
            share = np.clip(unit / np.sqrt(12) + 0.5, 0, 0.999999)
            values.append(torch.from_numpy((unit >= 0 if is_sign else share).astype(np.float32)))
    return Noise(*values)


def noised_tensors(prediction: Prediction) -> dict[str, Tensor]:
    """The last layer's denoising queries in the authors' terms, (I, S, ...)."""
    extra = prediction.extra
    pose6d = extra["dn_pose6d"].unflatten(-1, (24, 6))
    rotmat = rot6d_interleaved_to_rotmat(pose6d)
    return {
        "pred_poses": rotmat_to_axis_angle(rotmat).flatten(2),
        "pred_boxes": extra["dn_box"],
        "pred_confs": extra["dn_score"][..., None],
    }


def check_matches(outputs: Outputs, loss, prediction, batch, module) -> None:
    layers = [*prediction.stages, prediction]
    labels = scene_labels(batch, loss.long_side_px)
    queries = ordinary(layers, batch["input_size"], module.body, False)
    compare_pairs(outputs, pair(queries, labels, loss.long_side_px, loss.cost), labels, queries)


def compare_pairs(outputs: Outputs, pairs, labels, queries: Queries) -> None:
    num_layers, num_images, num_queries = queries.score.shape
    counts = labels.image.bincount(minlength=num_images)
    first = counts.cumsum(0) - counts
    for layer in range(num_layers):
        for image in range(num_images):
            is_here = (pairs.layer == layer) & (labels.image[pairs.label] == image)
            rows = (pairs.query[is_here] % num_queries, pairs.label[is_here] - first[image])
            outputs.check(f"match.layer{layer}.image{image}", torch.stack(rows))


def check_terms(outputs: Outputs, terms: dict[str, Tensor], prefix: str) -> None:
    """Unweighted terms of every layer; ``prefix`` stands before ``loss``."""
    for name in outputs.below(f"{prefix}loss"):
        match = re.fullmatch(r"loss(_fixed)?\.(\w+?)(_dn)?(\.(\d+))?", name.removeprefix(prefix))
        if match is None or match[2] == "total":
            continue
        values = terms[("dn_" if match[3] else "") + TERMS[match[2]]]
        outputs.check(name, values[-1 if match[5] is None else int(match[5])])


def check_gradients(outputs: Outputs, named: dict[str, Tensor], prefix: str) -> None:
    without = [name for name, parameter in named.items() if parameter.grad is None]
    assert not without, f"no gradient: {without}"
    assert not outputs.case.spec[f"{prefix}.params_without_grad"]
    norms = torch.stack([parameter.grad.norm() for parameter in named.values()])
    outputs.check(f"{prefix}.total_norm", norms.norm())
    for name in outputs.below(f"{prefix}."):
        if name.endswith(".total_norm"):
            continue
        theirs, _, what = name.removeprefix(f"{prefix}.").rpartition(".")
        (ours,) = rename_keys({theirs: None}, convert.KEYS)
        grad = named[ours].grad
        outputs.check(name, grad.norm() if what == "norm" else grad)


def check_criterion(case: Case, tmp_path):
    """Matching, terms and gradients of given outputs, with and without denoising queries."""
    outputs = Outputs(case)
    batch = training_batch(case, [])
    labels = scene_labels(batch, case.config["input_size"])
    labels = labels._replace(box=torch.cat(targets(case, "boxes")))  # theirs span hidden joints
    for tag in dict.fromkeys(name.partition(".")[0] for name in outputs.specs):
        if tag != "match":
            _check_criterion(case, outputs, tag, labels, batch)
    outputs.finish()


def _check_criterion(case: Case, outputs: Outputs, tag: str, labels, batch: Batch) -> None:
    config = case.config
    side, weights = config["input_size"], config["weights"]
    cost = CostWeights(*(config["matcher"][name] for name in ("conf", "bbox", "giou", "kpts")))
    if tag == "all2d":
        nobody = torch.zeros_like(labels.has_pose)
        names = ("has_pose", "has_betas", "has_joints", "has_depth")
        labels = labels._replace(**dict.fromkeys(names, nobody))
    num_images = len(case.spec["targets"])
    given = _given_outputs(case, "out", num_images, config["num_queries"])
    queries = Queries(_scores(given), _estimates(given))
    if "match.layer0.image0" in outputs.unchecked:
        compare_pairs(outputs, pair(queries, labels, side, cost), labels, queries)
    everything = torch.ones(num_images, dtype=torch.bool)
    terms = query_terms(queries, labels, side, cost, everything)
    label_map = torch.cat(targets(case, "scale_map"))
    scale_map = 0.5 + 0.27 * torch.from_numpy(
        fill.unit("out.scale_map", label_map.shape, case.salt)
    )
    scale_map.requires_grad_()
    terms |= map_terms(scale_map, label_map, torch.ones(len(label_map), dtype=torch.bool))
    all_given = {"out": given}
    if any("_dn" in name for name in outputs.below(f"{tag}.loss.")):
        all_given["dn"] = _given_outputs(case, "dn", num_images, case.spec["dn"]["pad_size"])
        terms |= denoising_terms(_noised(case, all_given["dn"], labels), labels, side)
    counted = {TERMS[n] for loss in config["losses"] for n in PARTS.get(loss, (loss,))}
    terms = {n: value for n, value in terms.items() if n.removeprefix("dn_") in counted}
    check_terms(outputs, terms, f"{tag}.")
    own = {TERMS[name]: weight for name, weight in weights.items()}
    own |= {f"dn_{name}": weight for name, weight in own.items()}
    total = sum(own[name] * value.sum() for name, value in terms.items())
    old = [own[n] * (v[-1] if n.startswith("dn_") else v.sum()) for n, v in terms.items()]
    outputs.check(f"{tag}.total", torch.stack(old).sum())
    if f"{tag}.total_fixed" in outputs.specs:
        outputs.check(f"{tag}.total_fixed", total)
    total.backward()
    for name in outputs.below(f"{tag}.grad."):
        _, _, kind, layer, what = (*name.split("."), "", "")[:5]
        source = scale_map if kind == "scale_map" else all_given[kind][int(layer)][what]
        outputs.check(name, torch.zeros(()) if source.grad is None else source.grad.norm())


def _given_outputs(case: Case, tag: str, num_images: int, num: int) -> list[dict[str, Tensor]]:
    """What the case's rules make of every layer, in the authors' terms."""
    shape = (num_images, num)
    layers = []
    for layer in range(case.config["dec_layers"]):

        def unit(name: str, *size: int, layer: int = layer) -> Tensor:
            return torch.from_numpy(fill.unit(f"{tag}.{layer}.{name}", (*shape, *size), case.salt))

        z = 4 + unit("z", 1)
        center = 0.5 + 0.17 * unit("box_c", 2)
        values = {
            "pred_poses": 0.3 * unit("poses", 72),
            "pred_betas": 0.5 * unit("betas", 10),
            "pred_boxes": torch.cat([center, 0.25 + 0.1 * unit("box_wh", 2)], dim=-1),
            "pred_confs": 0.5 + 0.27 * unit("conf", 1),
            "pred_j3ds": 0.3 * unit("j3ds", 45, 3) + torch.tensor([0, 0, 4.0]),
            "pred_j2ds": 1288 * (center[..., None, :] + 0.1 * unit("j2ds", 45, 2)),
            "pred_depths": torch.cat([z, z / 1115.4], dim=-1),
        }
        layers.append({name: value.requires_grad_() for name, value in values.items()})
    return layers


def _scores(layers: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([layer["pred_confs"][..., 0] for layer in layers])


def _estimates(layers: list[dict[str, Tensor]], index: Tensor | slice = slice(None)) -> Estimates:
    """Rows of every layer."""

    def rows(name: str) -> Tensor:
        return torch.cat([layer[name].flatten(0, 1)[index] for layer in layers])

    return Estimates(
        axis_angle_to_rotmat(rows("pred_poses").unflatten(1, (24, 3))),
        rows("pred_betas"),
        rows("pred_boxes"),
        rows("pred_j3ds"),
        rows("pred_j2ds"),
        rows("pred_depths")[:, 1],
    )


def _noised(case: Case, layers: list[dict[str, Tensor]], labels) -> Noised:
    """The denoising queries in the slots that the case describes, all of which count."""
    num_slots, num_groups = case.spec["dn"]["pad_size"], case.spec["dn"]["num_dn_group"]
    counts = labels.image.bincount()
    place = torch.arange(len(labels.image)) - (counts.cumsum(0) - counts)[labels.image]
    group = torch.arange(num_groups)[:, None]
    slot = labels.image * num_slots + 2 * counts.max() * group + place
    score = _scores(layers)
    is_used = torch.ones(score.shape[1:], dtype=torch.bool)
    return Noised(score, is_used, slot, _estimates(layers, slot.flatten()))
