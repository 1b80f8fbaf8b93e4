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

import numpy as np

from unlearnlib.data.cartoon_people import BUN, STYLES, Person, Pictures, bits, person, pictures
from unlearnlib.seeding import numpy_generator

CHUNK = 1 << 15  # pixels drawn at once, so that the work arrays stay in the cache


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
