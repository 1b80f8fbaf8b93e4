"""Cartoon faces: pictures whose identity and attributes are known, because they are drawn from them.

A person fixes what identity is: shape of face and jaw, skin, hair, eyes, brows, nose, beard. A picture adds what
changes from one photograph to the next: smile, glasses, mouth, gaze, pose, light, background, shirt and noise.
Smile and glasses are tied to identity by one dial rho, `correlation`. Every person has a hidden bit for each, and

    P(attribute = bit of the person) = (1 + rho) / 2,

so that rho is the correlation of attribute and bit: 0 makes them independent, 1 makes identity decide. Any four
people in a row (0-3, 4-7, ...) have the four combinations of the two bits, so both are balanced and unrelated.

Shapes are signed distances d (in units of half a picture, negative inside) on the posed pixel grid; a pixel of
width h is covered by clip(1/2 - d/h, 0, 1), which is what smooths the edges.
"""

from dataclasses import dataclass, fields

import numpy as np

from unlearnlib.seeding import numpy_generator

CHUNK = 1 << 15  # pixels drawn at once, so that the work arrays stay in the cache

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


def _ellipse(x: np.ndarray, y: np.ndarray, a, b) -> np.ndarray:
    """Distance to an axis-parallel ellipse at the origin, to first order at its edge."""
    p, q = x * np.float32(1 / a), y * np.float32(1 / b)
    p *= p
    q *= q
    slope = p * np.float32(1 / a**2)
    slope += q * np.float32(1 / b**2)
    np.sqrt(slope, out=slope)
    slope += np.float32(1e-3)
    p += q
    p -= 1
    p /= slope
    p *= np.float32(0.5)
    return p


class _Canvas:
    """Pictures in the making: colours [n, 3, rows, columns] and the posed coordinates x, y of every pixel."""

    def __init__(self, rgb, x, y, pixel):
        self.rgb, self.x, self.y, self.pixel = rgb, x, y, pixel

    def rows(self, top: float, bottom: float) -> "_Canvas":
        """The part between two heights (-1 top, 1 bottom): small shapes need not be tried on every pixel."""
        size = self.rgb.shape[2]
        part = slice(max(0, int((top + 1) / 2 * size)), min(size, int((bottom + 1) / 2 * size) + 1))
        return _Canvas(self.rgb[:, :, part], self.x[:, part], self.y[:, part], self.pixel)

    def paint(self, distance: np.ndarray, colour: np.ndarray, opacity=None) -> None:
        """Cover the pixels inside a shape. colour [3] or [n, 3], opacity None, a number or [n, 1, 1]."""
        cover = np.subtract(np.float32(0.5), distance / self.pixel)
        np.clip(cover, 0, 1, out=cover)
        if opacity is not None:
            cover *= opacity
        colour = np.asarray(colour, np.float32)
        for channel in range(3):
            plane = self.rgb[:, channel]
            plane += cover * (colour[..., channel].reshape(-1, 1, 1) - plane)


def draw(who: Person, shots: Pictures, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures [n, 3, size, size] uint8 of one person; `rng` gives the pixel noise."""
    step = max(1, CHUNK // size**2)
    parts = [_draw(who, shots[i : i + step], size, rng) for i in range(0, len(shots), step)]
    return np.concatenate(parts) if parts else np.empty((0, 3, size, size), np.uint8)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def _draw(who: Person, shots: Pictures, size: int, rng: np.random.Generator) -> np.ndarray:
    grid = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1).astype(np.float32)
    u, v = grid[None, None, :], grid[None, :, None]
    cos, sin = _column(np.cos(shots.angle) / shots.scale), _column(np.sin(shots.angle) / shots.scale)
    du, dv = u - _column(shots.shift_x), v - _column(shots.shift_y)
    x, y = cos * du + sin * dv, cos * dv - sin * du
    rgb = np.empty((len(shots), 3, size, size), np.float32)
    rise = (v + 1) / 2
    for channel in range(3):
        sky, ground = _column(shots.sky[:, channel]), _column(shots.ground[:, channel])
        rgb[:, channel] = sky + rise * (ground - sky)
    canvas = _Canvas(rgb, x, y, _column(2 / size / shots.scale))
    _head(canvas, who, shots)
    _eyes(canvas.rows(-0.72, 0.42), who, shots)
    _mouth(canvas.rows(-0.20, 0.90), who, shots)
    toward_x, toward_y = (_column(shots.light * f(shots.light_from)) for f in (np.cos, np.sin))
    rgb *= (_column(shots.gain) * (1 + toward_x * u + toward_y * v))[:, None]
    rgb += rng.standard_normal(rgb.shape, dtype=np.float32) * _column(shots.noise)[:, None]
    rgb *= 255
    rgb += np.float32(0.5)
    return np.clip(rgb, 0, 255, out=rgb).astype(np.uint8)


def _head(canvas: _Canvas, who: Person, shots: Pictures) -> None:
    """Hair behind, shirt, neck, ears, face, beard, hair in front."""
    x, y = canvas.x, canvas.y
    side, shade = np.abs(x), who.skin * 0.86
    level, wide, high, line, slope, arch = (np.float32(v) for v in STYLES[who.style])
    if wide > 0:
        canvas.paint(_ellipse(x, y - level, who.width * wide * 1.08, who.height * high * 1.1), who.hair * 0.82)
    if who.style == BUN:
        top = canvas.rows(-1, -0.2)
        top.paint(_ellipse(top.x, top.y + np.float32(who.height + 0.12), 0.2, 0.17), who.hair * 0.9)
    low = canvas.rows(0.2, 1)
    low.paint(np.maximum(np.abs(low.x) - np.float32(0.19), np.float32(0.35) - low.y), shade * 0.95)
    low.paint(_ellipse(low.x, low.y - np.float32(1.22), 0.80, 0.44), shots.shirt)
    middle = canvas.rows(-0.5, 0.5)
    ear = np.abs(middle.x) - np.float32(who.width + 0.01)
    middle.paint(_ellipse(ear, middle.y - np.float32(who.eye_level + 0.06), 0.085, 0.13), shade)
    bent = x / (1 - np.float32(who.jaw) * np.clip(y, 0, 1))
    face = _ellipse(bent, y, who.width, who.height)
    canvas.paint(face, who.skin)
    if who.beard:
        chin = np.float32(0.16) + side * side * np.float32(-0.9)
        canvas.paint(np.maximum(face, chin - y), who.hair * 0.9)
        canvas.paint(_ellipse(x, y - np.float32(who.mouth_level), 0.30, 0.13), who.skin * 0.97)
    if wide > 0:
        cap = face - np.float32(0.05)
        upper = canvas.rows(-1, 0.5)
        edge = upper.y - (line + slope * upper.x + arch * upper.x * upper.x)
        upper.paint(np.maximum(cap[:, : edge.shape[1]], edge), who.hair)


def _eyes(canvas: _Canvas, who: Person, shots: Pictures) -> None:
    """Blush, freckles, brows, eyes, glasses."""
    x, y = canvas.x, canvas.y
    out, down = np.abs(x) - np.float32(who.eye_gap), y - np.float32(who.eye_level)
    r = who.eye_size
    canvas.paint(_ellipse(out - np.float32(0.06), down - np.float32(0.24), 0.10, 0.07), [0.93, 0.42, 0.40], who.blush)
    if who.freckles:
        dots = np.abs(np.abs(out - np.float32(0.02)) - np.float32(0.05)) + np.abs(down - np.float32(0.19))
        canvas.paint(dots - np.float32(0.025), who.skin * 0.68)
    lift = down + np.float32(2.0 * r + 0.02) + _column(shots.brow)
    brow = np.abs(lift - np.float32(who.brow_tilt) * out) - np.float32(who.brow_weight)
    canvas.paint(np.maximum(brow, np.abs(out) - np.float32(1.15 * r)), who.hair * 0.6)
    canvas.paint(_ellipse(out, down, r, r * 1.15), [0.98, 0.98, 0.98])
    looking = np.where(x < 0, -out, out) - _column(shots.gaze * r)
    canvas.paint(_ellipse(looking, down, 0.62 * r, 0.72 * r), who.iris)
    canvas.paint(_ellipse(looking, down, 0.32 * r, 0.36 * r), [0.04, 0.04, 0.05])
    wearing = shots.glasses > 0
    if wearing.any():
        worn = _Canvas(canvas.rgb[wearing], x[wearing], y[wearing], canvas.pixel[wearing])
        _glasses(worn, out[wearing], down[wearing], who, shots.frame[wearing], _column(shots.square[wearing]))
        canvas.rgb[wearing] = worn.rgb


def _glasses(canvas: _Canvas, out, down, who: Person, frame: np.ndarray, square: np.ndarray) -> None:
    a, b = np.float32(who.eye_gap - 0.045), np.float32(who.eye_size + 0.055)
    box = np.maximum(np.abs(out) - a, np.abs(down) - b)
    lens = box + (1 - square) * (_ellipse(out, down, a, b * 1.1) - box)
    canvas.paint(lens, [1.0, 1.0, 1.0], 0.22)
    bar = np.maximum(np.abs(down) - np.float32(0.022), np.abs(canvas.x) - np.float32(who.width + 0.03))
    canvas.paint(np.minimum(np.abs(lens) - np.float32(0.028), np.maximum(bar, -lens)), frame)


def _mouth(canvas: _Canvas, who: Person, shots: Pictures) -> None:
    """Nose and mouth. Lips run from y = e + t1 (1 - s^2) to e + t2 (1 - s^2), s = x / half-width in [-1, 1].

    Closed: t1 = t2 = bend, above 0 if and only if smiling. Open: the lower lip drops by the gape.
    """
    x, y = canvas.x, canvas.y
    nose_x, nose_y = np.abs(x), y - np.float32(who.eye_level + 0.17 + who.nose)
    canvas.paint(_ellipse(nose_x, nose_y, who.nose * 0.75, who.nose), who.skin * 0.80)
    half = _column(who.mouth_width * shots.mouth * np.where((shots.gape > 0) & (shots.smile == 0), 0.62, 1.0))
    bend, gape = _column(shots.bend), _column(shots.gape)
    s = x / half
    profile = 1 - s * s
    below = y - (np.float32(who.mouth_level) - bend * np.float32(0.5))
    upper, lower = bend * profile, (bend + gape) * profile
    steep = np.sqrt(1 + (2 * (np.abs(bend) + gape) * s / half) ** 2)
    inside = np.maximum(upper - below, below - lower) / steep
    end = np.abs(x) - half
    lip = np.float32(0.030)
    canvas.paint(np.maximum(inside - lip, end), who.skin * [0.55, 0.30, 0.30])
    agape = _column(shots.gape > 0)
    canvas.paint(np.maximum(inside, end + lip), [0.32, 0.06, 0.08], agape)
    teeth = np.maximum(np.maximum(inside, end + lip), below - upper - np.float32(0.055))
    canvas.paint(teeth, [0.97, 0.96, 0.93], agape)


def album(
    count: int, each: int, part: str, size: int, correlation: float, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`each` pictures of each of `count` people, person after person, for a part of the data ("train", "test").

    Returns images [count * each, 3, size, size] uint8 and int64 columns smile, glasses, identity, smile_bit,
    glasses_bit. Another part shows other pictures of the same people.
    """
    bit, images, shots = bits(count, seed), [], []
    for k in range(count):
        shots.append(pictures(each, bit[k], correlation, numpy_generator(seed, "cartoon", part, k)))
        images.append(draw(person(k, seed), shots[-1], size, numpy_generator(seed, "cartoon", part, k, "noise")))
    identity = np.repeat(np.arange(count), each)
    columns = {
        "smile": np.concatenate([shot.smile for shot in shots]),
        "glasses": np.concatenate([shot.glasses for shot in shots]),
        "identity": identity,
        "smile_bit": bit[identity, 0],
        "glasses_bit": bit[identity, 1],
    }
    return np.concatenate(images), columns
