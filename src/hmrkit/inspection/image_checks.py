"""Checks of what lies in the image: 2D joints, boxes, and the cameras."""

import numpy as np

from hmrkit.inspection.checks import Check, Outcome
from hmrkit.inspection.labels import TRUNK, Labels, pick

_NORMALISED_PX = 2.0  # no label of a real image lies within so few px of its corner
_MIN_IMAGE_PX = 32
_OUTSIDE = 0.1  # of the longer side of the image
_INSIDE = 0.1  # of the area of the box
_MAX_SIZE_RATIO = 6.0  # box over 2D joints
_MIN_JOINTS = 6
_SAME_PERSON_IOU = 0.95
_FOV_DEG = (5.0, 150.0)
_OFF_CENTRE = 0.25
_ANISOTROPY = 0.05
_REPROJECTION = 0.1
_RIGID = 1e-3


def pixels_normalised(labels: Labels) -> Outcome:
    """2D joints or boxes that all lie within two pixels of the corner."""
    box = np.abs(labels.box_img).max(axis=1, initial=0)
    joints = np.where(labels.has_keypoint_img, np.abs(labels.keypoints_img[..., :2]).max(2), 0)
    largest = joints.max(axis=1, initial=0)
    has_joints = labels.num_keypoints_img >= 3
    is_bad = (box <= _NORMALISED_PX) | (has_joints & (largest <= _NORMALISED_PX))
    value = np.where(has_joints, np.minimum(box, largest), box)
    return Outcome(labels.size_of_view.max(axis=1, initial=0) >= _MIN_IMAGE_PX, is_bad, value)


def keypoints_outside_image(labels: Labels) -> Outcome:
    """A labelled 2D joint far outside the image."""
    points, last = labels.keypoints_img[..., :2], labels.size_of_view[:, None] - 0.5
    off = np.maximum(-0.5 - points, points - last).max(axis=2)
    off = np.where(labels.has_keypoint_img, off, -np.inf).max(axis=1, initial=-np.inf)
    limit = _OUTSIDE * labels.size_of_view.max(axis=1, initial=0)
    return Outcome(labels.num_keypoints_img > 0, off > limit, off)


def box_outside_image(labels: Labels) -> Outcome:
    """A box of which hardly anything is in the image."""
    low, size = labels.box_img[:, :2], labels.box_img[:, 2:] - labels.box_img[:, :2]
    high = np.minimum(labels.box_img[:, 2:], labels.size_of_view - 0.5)
    inside = (np.maximum(high - np.maximum(low, -0.5), 0) / size).prod(axis=1)
    return Outcome(np.ones(len(low), bool), inside < _INSIDE, 100 * inside)


def box_disagrees_with_keypoints(labels: Labels) -> Outcome:
    """Most 2D joints off the box, or a box of quite another size than the 2D joints."""
    box, seen = labels.box_img[:, None], labels.has_keypoint_img
    half = (box[..., 2:] - box[..., :2]) / 2
    off = np.abs(labels.keypoints_img[..., :2] - box[..., :2] - half) / half  # 1 at the border
    is_inside = (off < 2).all(axis=2) & seen
    side = (labels.keypoint_box[:, 2:] - labels.keypoint_box[:, :2]).max(axis=1, initial=0)
    ratio = labels.box_side / np.maximum(side, 1e-6)
    has_trunk = np.isfinite(pick(labels.parts_img, *TRUNK)).all(axis=(1, 2))
    is_bad = (is_inside.sum(axis=1) < 0.5 * labels.num_keypoints_img) | (ratio < 0.5)
    is_bad |= has_trunk & (ratio > _MAX_SIZE_RATIO)
    return Outcome(labels.num_keypoints_img >= _MIN_JOINTS, is_bad, ratio)


def kind_mismatch(labels: Labels) -> Outcome:
    """A record that is not what the manifest calls all of them."""
    num = len(labels.keys)
    images, views, people = (
        np.bincount(rows, minlength=num)
        for rows in (labels.record_of_image, labels.record_of_view, labels.record_of_person)
    )
    is_as_said = {
        "crops": (images == 1) & (views == 1) & (people == 1),
        "scenes": (images == 1) & (views == people),
        "rigs": (images > 0) & (views <= images * people),
        "motion": (images == 0) & (views == 0),
    }.get(labels.kind or "")
    if is_as_said is None:
        return Outcome(np.zeros(num, bool), np.zeros(num, bool), people)
    return Outcome(np.ones(num, bool), ~is_as_said, people)


def duplicate_people(labels: Labels) -> Outcome:
    """Two boxes of one image that are nearly the same."""
    order = np.argsort(labels.image_of_view, kind="stable")
    image, box = labels.image_of_view[order], labels.box_img[order]
    best = np.zeros(len(order))
    for step in range(1, int(np.bincount(image).max(initial=1))):
        is_pair = image[step:] == image[:-step]
        overlap = np.where(is_pair, _iou(box[step:], box[:-step]), 0)
        best[step:] = np.maximum(best[step:], overlap)
    value = np.zeros(len(order))
    value[order] = best
    return Outcome(np.ones(len(order), bool), value > _SAME_PERSON_IOU, value)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of boxes (N, 4)."""
    shared = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    both = np.maximum(shared, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b)]
    return both / (sum(areas) - both)


def visible_fraction_out_of_range(labels: Labels) -> Outcome:
    """A share below 0 or above 1."""
    value = labels.visible_fraction
    return Outcome(np.isfinite(value), (value < 0) | (value > 1), value)


def intrinsics_invalid(labels: Labels) -> Outcome:
    """A matrix that is no pinhole camera's."""
    matrix = labels.intrinsics_of_view
    focal = matrix[:, [0, 1], [0, 1]]
    is_bad = (focal <= 0).any(axis=1) | (np.abs(matrix[:, 1, 0]) > 1e-3 * np.abs(focal[:, 0]))
    is_bad |= (np.abs(matrix[:, 2] - [0, 0, 1]) > 1e-6).any(axis=1)
    return Outcome(np.isfinite(matrix).all(axis=(1, 2)), is_bad, focal.min(axis=1, initial=9e9))


def implausible_field_of_view(labels: Labels) -> Outcome:
    """A focal length that does not go with the size of the image."""
    focal = labels.intrinsics_of_view[:, 0, 0]
    angle = 2 * np.degrees(np.arctan(labels.size_of_view.max(axis=1, initial=0) / 2 / focal))
    is_bad = (angle < _FOV_DEG[0]) | (angle > _FOV_DEG[1])
    return Outcome(np.isfinite(angle) & (focal > 0), is_bad & ~labels.is_camera_proven, angle)


def principal_point_off_centre(labels: Labels) -> Outcome:
    """A principal point far from the middle of a whole image."""
    off = labels.intrinsics_of_view[:, :2, 2] / labels.size_of_view - 0.5
    off = np.abs(off).max(axis=1, initial=0)
    # What was cut out of a larger image has it anywhere; where 3D joints judge, they do it better.
    is_cut = labels.is_precropped | ((labels.kind == "crops") & np.isfinite(labels.reprojection))
    is_bad = (off > _OFF_CENTRE) & ~labels.is_camera_proven
    return Outcome(np.isfinite(off) & ~is_cut, is_bad, 100 * off)


def anisotropic_focal_length(labels: Labels) -> Outcome:
    """Two focal lengths that differ as if the image had been stretched."""
    focal = labels.intrinsics_of_view[:, [0, 1], [0, 1]]
    ratio = focal[:, 0] / focal[:, 1]
    is_bad = (np.abs(np.log(np.abs(ratio))) > _ANISOTROPY) & ~labels.is_camera_proven
    return Outcome(np.isfinite(ratio) & (focal > 0).all(axis=1), is_bad, ratio)


def camera_not_rigid(labels: Labels) -> Outcome:
    """A ``world_to_camera`` that stretches, mirrors or is no transform of points."""
    matrix = labels.world_to_camera.astype(np.float64)
    turn = matrix[:, :3, :3]
    off = np.abs(turn @ turn.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2), initial=0)
    is_bad = (off > _RIGID) | (np.linalg.det(turn) < 0)
    is_bad |= (np.abs(matrix[:, 3] - [0, 0, 0, 1]) > 1e-6).any(axis=1)
    return Outcome(np.ones(len(off), bool), is_bad, np.linalg.det(turn))


def reprojection_error(labels: Labels) -> Outcome:
    """3D joints that do not fall on the 2D ones through the camera."""
    value = labels.reprojection
    return Outcome(np.isfinite(value), value > _REPROJECTION, 100 * value)


def behind_camera(labels: Labels) -> Outcome:
    """A person whom the camera that sees them has behind it."""
    depth = labels.pelvis_cam[:, 2]
    return Outcome(np.isfinite(depth), depth < 0, depth)


def transl_off_box(labels: Labels) -> Outcome:
    """A translation that puts the pelvis far from the box in the image."""
    place = labels.turn(labels.pelvis_world) + labels.camera_of_view[:, :3, 3]
    matrix = labels.intrinsics_of_view
    rays = np.einsum("oab,ob->oa", matrix, place)
    middle = (labels.box_img[:, :2] + labels.box_img[:, 2:]) / 2
    off = np.linalg.norm(rays[:, :2] / rays[:, 2:] - middle, axis=1) / labels.box_side
    return Outcome(np.isfinite(off) & (place[:, 2] > 0), off > 1.5, off)


IMAGE_CHECKS = (
    Check(
        "kind-mismatch",
        "record",
        kind_mismatch,
        "{:.0f} people",
        "Records are not of the kind that the manifest names.",
        "crops: one image, one person; scenes: one image, a view per person; rigs: several images; "
        "motion: none. Write the manifest with the right kind.",
        error_share=0,
    ),
    Check(
        "pixels-normalised",
        "view",
        pixels_normalised,
        "largest coordinate {:.3g}",
        "2D joints or boxes look like shares of the image, not pixels.",
        "Multiply them by the size of the image (or undo the crop) before writing the record.",
        error_share=0,
    ),
    Check(
        "keypoints-outside-image",
        "view",
        keypoints_outside_image,
        "{:.0f} px outside",
        "Labelled 2D joints lie outside the image by more than a tenth of its longer side.",
        "Scale them with the image if it was resized; give confidence 0 to joints that nobody saw. "
        "Projected joints of people whom the border cuts may stay.",
    ),
    Check(
        "box-outside-image",
        "view",
        box_outside_image,
        "{:.0f} % inside",
        "Less than a tenth of the box is in the image.",
        "Boxes are x1 y1 x2 y2 in px of the stored image: check for x y width height, and for "
        "boxes of an image of another size.",
    ),
    Check(
        "box-disagrees-with-keypoints",
        "view",
        box_disagrees_with_keypoints,
        "box {:.2f} times as large",
        "The box is not where the 2D joints are, or has quite another size.",
        "Boxes are x1 y1 x2 y2 in px, tight around the person: check centre, scale and stored "
        "margin, and that box and joints are of the same person.",
    ),
    Check(
        "duplicate-people",
        "view",
        duplicate_people,
        "boxes overlap by {:.3f}",
        "Two people of one image have nearly the same box (intersection over union above 0.95).",
        "Keep one of them: the annotation lists somebody twice.",
    ),
    Check(
        "visible-fraction-out-of-range",
        "view",
        visible_fraction_out_of_range,
        "{:.3g}",
        "visible_fraction is below 0 or above 1.",
        "It is the share of the person's own pixels that is seen; NaN if it is not known.",
        error_share=0,
    ),
    Check(
        "intrinsics-invalid",
        "view",
        intrinsics_invalid,
        "smallest focal length {:.4g}",
        "intrinsics are no camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0.",
        "Check for a transposed or normalised matrix; unknown cameras are NaN.",
        error_share=0,
    ),
    Check(
        "implausible-field-of-view",
        "view",
        implausible_field_of_view,
        "{:.1f} degrees",
        "The focal length gives the image a field of view below 5 or above 150 degrees.",
        "Check that intrinsics are in px of the stored image; the 5000 px of SPIN's crops are no "
        "camera: leave them NaN.",
    ),
    Check(
        "principal-point-off-centre",
        "view",
        principal_point_off_centre,
        "{:.0f} % of the side off",
        "The principal point is further than a quarter of the side from the middle of the image, "
        "and no 3D joints prove it.",
        "Scale the intrinsics with the image if it was resized, and swap cx and cy if it was "
        "turned.",
    ),
    Check(
        "anisotropic-focal-length",
        "view",
        anisotropic_focal_length,
        "fx / fy = {:.3f}",
        "The two focal lengths differ by more than 5 %, and no 3D joints prove it.",
        "Check the order of the entries; if the image was stretched, scale fx and fy apart.",
    ),
    Check(
        "camera-not-rigid",
        "image",
        camera_not_rigid,
        "determinant {:.3g}",
        "world_to_camera is no rigid motion: its rotation is none, or its last row is not 0 0 0 1.",
        "Check for a scale in it, a mirrored axis or a transposed matrix; translations are metres.",
        error_share=0,
    ),
    Check(
        "reprojection-error",
        "view",
        reprojection_error,
        "{:.0f} % of the box",
        "3D joints, seen through the camera, miss the 2D joints by more than a tenth of the box.",
        "Check intrinsics against the size of the image, world_to_camera against its inverse, and "
        "the units of both.",
    ),
    Check(
        "behind-camera",
        "view",
        behind_camera,
        "z = {:.2f} m",
        "People are behind the camera that sees them.",
        "The camera looks along +z with y down: check for OpenGL axes, and for an inverted "
        "world_to_camera.",
        error_share=0,
    ),
    Check(
        "transl-off-box",
        "view",
        transl_off_box,
        "{:.1f} box sides off",
        "The translation puts the pelvis far from the box in the image.",
        "transl is SMPL's, in metres and in the world of the record: add what belongs to the "
        "camera, and check the intrinsics.",
    ),
)
