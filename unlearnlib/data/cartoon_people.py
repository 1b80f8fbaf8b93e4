"""Who is drawn, and how the pictures of somebody differ: the random part of the cartoon faces (see `cartoon.py`)."""

from dataclasses import dataclass, fields

import numpy as np

from unlearnlib.seeding import numpy_generator

SKIN = np.array([[1.0, 0.87, 0.77], [0.95, 0.77, 0.62], [0.82, 0.60, 0.43], [0.60, 0.41, 0.29], [0.42, 0.28, 0.20]])
HAIR = np.array(
    [
        [0.10, 0.08, 0.08],
        [0.26, 0.16, 0.11],
        [0.45, 0.27, 0.15],
        [0.68, 0.30, 0.13],
        [0.90, 0.72, 0.36],
        [0.72, 0.72, 0.74],
        [0.30, 0.35, 0.62],
        [0.78, 0.38, 0.52],
    ]
)
IRIS = np.array([[0.30, 0.18, 0.10], [0.22, 0.45, 0.72], [0.25, 0.52, 0.33], [0.45, 0.36, 0.20]])
FRAME = np.array([[0.10, 0.10, 0.12], [0.45, 0.12, 0.14], [0.12, 0.20, 0.50], [0.36, 0.22, 0.08]])

# Hair behind the head (height of its centre, half-width, half-height) and the hairline on the forehead
# y = level + slope x + arch x^2: bald, short, fringe, side parting, long, long with a fringe, curly, bun.
STYLES = np.array(
    [
        [0.00, 0.00, 0.00, -2.00, 0.0, 0.0],
        [-0.12, 0.98, 0.80, -0.42, 0.0, 0.7],
        [-0.10, 1.02, 0.86, -0.26, 0.0, 0.1],
        [-0.12, 1.00, 0.84, -0.44, 0.5, 0.4],
        [0.22, 1.22, 1.18, -0.46, 0.0, 1.0],
        [0.16, 1.20, 1.10, -0.27, 0.0, 0.2],
        [-0.20, 1.38, 1.10, -0.44, 0.0, 0.5],
        [-0.12, 0.98, 0.80, -0.46, 0.0, 0.9],
    ]
)
BUN, BEARDED = 7, (0, 1, 3, 6)


@dataclass(frozen=True)
class Person:
    """What stays the same in all pictures of somebody; lengths in units of half a picture."""

    width: float
    height: float
    jaw: float
    skin: np.ndarray
    hair: np.ndarray
    style: int
    eye_gap: float
    eye_level: float
    eye_size: float
    iris: np.ndarray
    brow_tilt: float
    brow_weight: float
    nose: float
    blush: float
    mouth_level: float
    mouth_width: float
    beard: bool
    freckles: bool


@dataclass(frozen=True)
class Pictures:
    """What differs between pictures of one person: n entries each (colours [n, 3])."""

    smile: np.ndarray
    glasses: np.ndarray
    bend: np.ndarray
    gape: np.ndarray
    mouth: np.ndarray
    gaze: np.ndarray
    brow: np.ndarray
    frame: np.ndarray
    square: np.ndarray
    shift_x: np.ndarray
    shift_y: np.ndarray
    angle: np.ndarray
    scale: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    shirt: np.ndarray
    light: np.ndarray
    light_from: np.ndarray
    gain: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.smile)

    def __getitem__(self, rows: slice) -> "Pictures":
        return Pictures(*(getattr(self, f.name)[rows] for f in fields(self)))


def person(number: int, seed: int = 0) -> Person:
    """Person `number` of this seed: the same whatever else is drawn."""
    rng = numpy_generator(seed, "cartoon", "person", number)
    between = rng.uniform
    tone = between(0, len(SKIN) - 1)
    step = min(int(tone), len(SKIN) - 2)
    skin = SKIN[step] + (tone - step) * (SKIN[step + 1] - SKIN[step])
    hair = HAIR[rng.choice(len(HAIR), p=[0.2, 0.2, 0.16, 0.1, 0.14, 0.08, 0.06, 0.06])]
    if np.abs(hair - skin).max() < 0.25:
        hair = HAIR[0]  # hair must stand out from the skin
    style = int(rng.choice(len(STYLES), p=[0.06, 0.13, 0.12, 0.13, 0.19, 0.15, 0.11, 0.11]))
    return Person(
        width=between(0.47, 0.60),
        height=between(0.58, 0.72),
        jaw=between(-0.05, 0.30),
        skin=skin,
        hair=np.clip(hair * between(0.85, 1.15) + between(-0.03, 0.03, 3), 0, 1),
        style=style,
        eye_gap=between(0.19, 0.29),
        eye_level=between(-0.12, 0.02),
        eye_size=between(0.085, 0.125),
        iris=IRIS[rng.integers(len(IRIS))],
        brow_tilt=between(-0.12, 0.34),
        brow_weight=between(0.018, 0.036),
        nose=between(0.04, 0.09),
        blush=between(0.0, 0.5),
        mouth_level=between(0.31, 0.37),
        mouth_width=between(0.20, 0.27),
        beard=bool(between() < 0.3) and style in BEARDED,
        freckles=bool(between() < 0.2),
    )


def bits(count: int, seed: int = 0) -> np.ndarray:
    """The hidden bits [count, 2] for smile and glasses; any four people in a row have all four combinations."""
    blocks = [numpy_generator(seed, "cartoon", "bits", block).permutation(4) for block in range(-(-count // 4))]
    order = np.concatenate(blocks)[:count]
    return np.stack([order // 2, order % 2], axis=1)


def pictures(count: int, bit: np.ndarray, correlation: float, rng: np.random.Generator) -> Pictures:
    """`count` pictures of somebody with these two hidden bits."""
    u = rng.random((count, 28))
    agree = u[:, :2] < (1 + correlation) / 2

    def between(column: int, low: float, high: float) -> np.ndarray:
        return low + (high - low) * u[:, column]

    def colour(column: int, low: float, high: float, chroma: float) -> np.ndarray:
        grey = u[:, column : column + 3].mean(axis=1, keepdims=True)
        return low + (high - low) * (grey + chroma * (u[:, column : column + 3] - grey))

    smile, glasses = (np.where(agree[:, i], bit[i], 1 - bit[i]).astype(np.int64) for i in range(2))
    return Pictures(
        smile=smile,
        glasses=glasses,
        bend=np.where(smile == 1, between(2, 0.11, 0.20), between(2, -0.09, 0.02)),
        gape=np.where(u[:, 3] < 0.45, between(4, 0.05, 0.13), 0.0),
        mouth=between(5, 0.85, 1.15),
        gaze=between(6, -0.35, 0.35),
        brow=between(7, -0.03, 0.03),
        frame=FRAME[(u[:, 8] * len(FRAME)).astype(int)],
        square=(u[:, 9] < 0.5).astype(np.float64),
        shift_x=between(10, -0.14, 0.14),
        shift_y=between(11, -0.12, 0.12),
        angle=between(12, -0.26, 0.26),
        scale=between(13, 0.88, 1.10),
        sky=colour(14, 0.45, 1.0, 0.5),
        ground=colour(17, 0.45, 1.0, 0.5),
        shirt=colour(20, 0.15, 0.9, 0.8),
        light=between(23, 0.0, 0.30),
        light_from=between(24, -np.pi, np.pi),
        gain=between(25, 0.85, 1.1),
        noise=between(26, 0.01, 0.03),
    )
