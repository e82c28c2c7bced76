"""What made-up people wear: colours and thickness of skin, hair and clothes.

A look is a function of the place on the body in the T pose of the mean shape (metres, y up), so the
hem of a sleeve is as sharp as the pixels, not as the triangles. ``paint`` colours any such places;
``thickness`` says how far cloth and hair stand off the skin.
"""

from dataclasses import dataclass

import numpy as np

from hmrkit.body.joints import LANDMARKS, index
from hmrkit.data.synth.cloth import Cloth, draw_cloth, draw_color
from hmrkit.data.synth.people import FastBody

# sRGB ramps from light to dark and usual colours, 0..1
_SKIN = np.array(
    [[0.96, 0.82, 0.74], [0.90, 0.71, 0.58], [0.78, 0.57, 0.43], [0.60, 0.41, 0.29],
     [0.42, 0.28, 0.20], [0.27, 0.18, 0.14]]
)  # fmt: skip
_HAIR = np.array(
    [[0.07, 0.06, 0.06], [0.13, 0.09, 0.07], [0.25, 0.16, 0.10], [0.42, 0.27, 0.15],
     [0.72, 0.56, 0.33], [0.86, 0.75, 0.52], [0.52, 0.20, 0.10], [0.62, 0.61, 0.60],
     [0.88, 0.87, 0.85]]
)  # fmt: skip
_WHITE = np.array([0.92, 0.92, 0.90])


@dataclass(frozen=True)
class Anatomy:
    """Places on the template in its T pose, metres; x of a side is taken positive."""

    shoulder_x: float
    wrist_x: float
    arm_y: float
    waist_y: float
    hip_y: float
    ankle_y: float
    floor_y: float
    neck: np.ndarray  # (3,)
    top_y: float
    nose: np.ndarray  # (3,)
    eye: np.ndarray  # (3,)
    ear: np.ndarray  # (3,)


def measure(body: FastBody) -> Anatomy:
    """Find the places that clothes refer to on a body's template."""
    joint_names = ["left_shoulder", "left_wrist", "spine1", "left_hip", "left_ankle", "neck"]
    places = body.joints_template[index(joint_names, "smpl24")]
    joint = dict(zip([name.removeprefix("left_") for name in joint_names], places, strict=True))
    nose, eye, ear = (body.template[LANDMARKS[n]] for n in ("nose", "left_eye", "left_ear"))
    top_y = float(body.template[:, 1].max())
    return Anatomy(
        shoulder_x=float(joint["shoulder"][0]),
        wrist_x=float(joint["wrist"][0]),
        arm_y=float(joint["shoulder"][1]),
        waist_y=float(joint["spine1"][1]),
        hip_y=float(joint["hip"][1]),
        ankle_y=float(joint["ankle"][1]),
        floor_y=float(body.template[:, 1].min()),
        neck=joint["neck"],
        top_y=top_y,
        nose=nose,
        eye=eye,
        ear=ear,
    )


@dataclass(frozen=True)
class Look:
    """One person's skin, hair and clothes."""

    anatomy: Anatomy
    skin: np.ndarray  # (3,)
    hair: np.ndarray  # (3,)
    hair_style: str  # bald, short, long, hat
    hair_line: float  # m, shifts the hair line
    hair_thickness: float  # m
    beard: float  # 0 none .. 1 full
    shirt: Cloth
    sleeve: float  # 0 shoulder .. 1 wrist
    neckline: float  # m below the base of the neck, in front
    shirt_hem: float  # m below the waist
    jacket: Cloth | None
    trousers: Cloth
    leg: float  # 0 hip .. 1 ankle
    shoes: np.ndarray | None  # (3,), None = barefoot
    shoe_height: float  # m above the ankle
    sock: float  # m above the ankle
    sock_color: np.ndarray  # (3,)

    def regions(self, rest: np.ndarray) -> dict[str, np.ndarray]:
        """Masks (N,) of the clothes at places (N, 3), what lies above later."""
        a = self.anatomy
        x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
        along_arm = (x - a.shoulder_x) / (a.wrist_x - a.shoulder_x)
        is_arm = (along_arm > 0.12) & (y > a.waist_y)
        along_leg = (a.hip_y - y) / (a.hip_y - a.ankle_y)
        is_low = y < a.waist_y
        front = np.clip((z - a.neck[2] + 0.02) / 0.08, 0, 1)
        opening = a.neck[1] - 0.03 - self.neckline * front
        is_open = (y > opening) & (x < 0.075 + 0.35 * np.maximum(y - opening, 0))
        is_trunk = (y > a.waist_y - self.shirt_hem) & (y < a.neck[1] + 0.05) & ~is_open
        is_shirt = np.where(is_arm, along_arm < self.sleeve, is_trunk) & (x < a.wrist_x + 0.01)
        regions = {
            "trousers": is_low & (y < a.waist_y - 0.07) & (along_leg < self.leg) & ~is_arm,
            "shirt": is_shirt,
        }
        if self.jacket is not None:
            is_gap = (z > a.neck[2] - 0.01) & (x < 0.045) & (y < a.neck[1])
            regions["jacket"] = is_shirt & ~is_gap if self.sleeve < 0.9 else is_trunk & ~is_gap
            regions["jacket"] |= is_arm & (x < a.wrist_x - 0.01)
        regions["sock"] = y < a.ankle_y + self.sock
        if self.shoes is not None:
            regions["shoes"] = y < a.ankle_y + self.shoe_height
        regions["hair"] = self._hair(x, y, z)
        return regions

    def _hair(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Where hair or a hat is."""
        a = self.anatomy
        if self.hair_style == "bald":
            return np.zeros(len(x), bool)
        forehead_y = 0.42 * a.eye[1] + 0.58 * a.top_y + self.hair_line
        if self.hair_style == "hat":
            return y > forehead_y - 0.012
        nape_y = a.nose[1] - 0.01
        slope = (forehead_y - nape_y) / (0.9 * a.eye[2] - a.ear[2] + 0.02)
        above = y > nape_y + np.maximum(z - a.ear[2] + 0.02, 0) * slope
        is_head = y > nape_y
        if self.hair_style == "long":
            is_back = (z < a.ear[2] - 0.005) & (y > a.arm_y + 0.01) & (x < 0.10)
            return (above & is_head) | is_back
        return above & is_head

    def thickness(self, rest: np.ndarray) -> np.ndarray:
        """How far the surface stands off the skin, (N,) m, at places (N, 3)."""
        a = self.anatomy
        result = np.zeros(len(rest), np.float32)
        regions = self.regions(rest)
        loose = np.clip((a.arm_y - 0.1 - rest[:, 1]) / 0.3, 0.4, 1.0)
        result[regions["trousers"]] = self.trousers.thickness
        is_shirt = regions["shirt"]
        result[is_shirt] = np.maximum(result, self.shirt.thickness * loose)[is_shirt]
        if self.jacket is not None:
            result[regions["jacket"]] = self.shirt.thickness * 0.5 + self.jacket.thickness
        if self.shoes is not None:
            result[regions["shoes"]] = 0.006
        result[regions["hair"]] = self.hair_thickness
        return result

    def paint(self, rest: np.ndarray) -> np.ndarray:
        """Colours (N, 3) float32, sRGB 0..1, at places (N, 3)."""
        color = self._face(rest)
        regions = self.regions(rest)
        for name, cloth in (
            ("sock", None),
            ("trousers", self.trousers),
            ("shirt", self.shirt),
            ("jacket", self.jacket),
        ):
            where = np.flatnonzero(regions[name]) if name in regions else ()
            if len(where) == 0:
                continue
            place = rest[where]
            color[where] = (
                self.sock_color if cloth is None else cloth.paint(place) * cloth.shade(place)
            )
        if self.shoes is not None:
            color[regions["shoes"]] = self.shoes
            color[rest[:, 1] < self.anatomy.floor_y + 0.018] = 0.25 * self.shoes + 0.75 * _WHITE
        where = np.flatnonzero(regions["hair"])
        if len(where):
            strands = np.sin(rest[where] @ np.array([310.0, 60.0, 170.0], np.float32))
            color[where] = self.hair * (1 + 0.18 * strands[:, None])
        return np.clip(color, 0, 1)

    def _face(self, rest: np.ndarray) -> np.ndarray:
        """Skin with lips, eyes, brows and beard."""
        a = self.anatomy
        color = np.empty((len(rest), 3), np.float32)
        color[:] = self.skin
        where = np.flatnonzero((rest[:, 1] > a.neck[1]) & (rest[:, 2] > a.ear[2]))
        if len(where) == 0:
            return color
        x, y = np.abs(rest[where, 0]), rest[where, 1]
        face = color[where]
        if self.beard > 0:
            is_beard = (y < a.nose[1] - 0.012) & (y > a.neck[1] + 0.01)
            is_beard |= (x > 0.9 * a.ear[0]) & (y < a.eye[1])
            face[is_beard] = (1 - self.beard) * self.skin + self.beard * self.hair
        mouth_y = a.nose[1] - 0.036
        is_lips = (x / 0.024) ** 2 + ((y - mouth_y) / 0.008) ** 2 < 1
        face[is_lips] = 0.65 * self.skin + 0.35 * np.array([0.55, 0.13, 0.15])
        eye_x, eye_y = a.eye[0], a.eye[1]
        is_brow = (np.abs(y - eye_y - 0.021) < 0.0045) & (np.abs(x - eye_x) < 0.018)
        face[is_brow] = 0.75 * self.hair
        radius = ((x - eye_x) / 0.014) ** 2 + ((y - eye_y) / 0.0075) ** 2
        face[radius < 1] = 0.85
        face[(x - eye_x) ** 2 + (y - eye_y) ** 2 < 0.0065**2] = 0.12
        color[where] = face
        return color


def draw_look(rng: np.random.Generator, anatomy: Anatomy) -> Look:
    """Dress one person."""
    tone = rng.uniform(0, len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low]) + rng.normal(0, 0.02, 3)
    hair = _HAIR[rng.integers(len(_HAIR) if tone < 2.5 else 3)]
    style = str(rng.choice(["bald", "short", "long", "hat"], p=[0.08, 0.42, 0.36, 0.14]))
    hair_color = draw_color(rng) if style == "hat" or rng.random() < 0.04 else hair
    shirt = draw_cloth(rng, 0.5, (0.003, 0.016))
    trousers = draw_cloth(rng, 0.72, (0.003, 0.013))
    sleeve = float(rng.choice([0.05, 0.2, 0.32, 0.45, 0.7, 0.98])) + rng.normal(0, 0.02)
    leg = float(rng.choice([0.2, 0.38, 0.52, 0.8, 1.02], p=[0.08, 0.16, 0.16, 0.12, 0.48]))
    if rng.random() < 0.07:  # a dress, an overall, a track suit
        trousers = shirt
    is_barefoot = rng.random() < 0.12
    return Look(
        anatomy=anatomy,
        skin=np.clip(skin, 0.08, 1),
        hair=hair_color,
        hair_style=style,
        hair_line=rng.uniform(-0.012, 0.014),
        hair_thickness=rng.uniform(0.004, 0.012) if style == "hat" else rng.uniform(0.004, 0.028),
        beard=float(rng.random() < 0.2) * rng.uniform(0.3, 0.95),
        shirt=shirt,
        sleeve=sleeve,
        neckline=float(rng.choice([-0.05, 0.0, 0.04, 0.1], p=[0.12, 0.5, 0.25, 0.13])),
        shirt_hem=rng.uniform(0.06, 0.24),
        jacket=draw_cloth(rng, 0.85, (0.004, 0.012)) if rng.random() < 0.18 else None,
        trousers=trousers,
        leg=leg + rng.normal(0, 0.02),
        shoes=None if is_barefoot else draw_color(rng),
        shoe_height=float(rng.choice([0.0, 0.03, 0.14], p=[0.55, 0.3, 0.15])),
        sock=-1.0 if is_barefoot else rng.uniform(-0.02, 0.14),
        sock_color=_WHITE if rng.random() < 0.5 else draw_color(rng),
    )
