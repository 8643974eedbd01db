"""The demo's world: small landscapes drawn by formula, some of their traits named by a prompt.

A picture is a subject on a piece of land at a time of day. The prompt names the four attributes of
``ATTRIBUTES``; everything else in a ``Scene`` (warmth of the palette, height of the horizon, size,
exact position, accent colour, damage to the print) is left unsaid, so that one prompt has many
pictures and a taste has something to choose between.

All lengths are fractions of the picture's side, x to the right and y downwards. Shapes are signed
distance fields (negative inside); their coverage of a pixel is the antialiasing.
"""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

SIZE = 64
"""Side of a picture in pixels."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "subject": ("tree", "house", "flower", "balloon"),
    "place": ("left", "centre", "right"),
    "land": ("meadow", "desert", "snow"),
    "time": ("day", "sunset", "night"),
}
"""What a prompt can name, and the values of each. Their order is the order of an encoded prompt."""

UNNAMED = 0
"""Index of an attribute the prompt does not mention; the values count from 1."""

_WORDS: dict[str, tuple[str, str]] = {
    value: (name, value) for name, values in ATTRIBUTES.items() for value in values
} | {
    "center": ("place", "centre"),
    "middle": ("place", "centre"),
    "dusk": ("time", "sunset"),
    "snowy": ("land", "snow"),
}

Colour = tuple[float, float, float]

_PLACE_X = {"left": 0.24, "centre": 0.5, "right": 0.76}

_SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((0.30, 0.55, 0.88), (0.76, 0.91, 0.98)),
    "sunset": ((0.35, 0.29, 0.56), (0.99, 0.66, 0.42)),
    "night": ((0.05, 0.07, 0.20), (0.20, 0.25, 0.48)),
}
_LIGHT: dict[str, Colour] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.92, 0.70, 0.62),
    "night": (0.42, 0.47, 0.64),
}
_LAND: dict[str, tuple[Colour, Colour]] = {
    "meadow": ((0.46, 0.66, 0.42), (0.26, 0.52, 0.22)),
    "desert": ((0.82, 0.58, 0.38), (0.94, 0.78, 0.50)),
    "snow": ((0.60, 0.61, 0.80), (0.84, 0.87, 0.97)),
}


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture, up to the scatter of stars, clouds and damage."""

    subject: str
    """One of ``ATTRIBUTES["subject"]``; named by the prompt."""
    place: str
    """One of ``ATTRIBUTES["place"]``: where the subject stands; named by the prompt."""
    land: str
    """One of ``ATTRIBUTES["land"]``; named by the prompt."""
    time: str
    """One of ``ATTRIBUTES["time"]``; named by the prompt."""
    warmth: float = 0.0
    """Palette from -1 (cool) to 1 (warm)."""
    horizon: float = 0.6
    """Height of the horizon, from 0 (top edge) to 1 (bottom edge)."""
    size: float = 1.0
    """Scale of the subject."""
    offset: float = 0.0
    """Shift of the subject to the right of its place, as a fraction of the side."""
    accent: float = 0.0
    """Colour of petals, roof or envelope: 0 is blue, then violet, pink, red, and yellow at 1."""
    light_x: float = 0.7
    """Horizontal position of the sun or moon."""
    roll: float = 0.0
    """Phase of the hills, in radians."""
    damage: float = 0.0
    """How broken the details are: 0 for a clean print, 1 for a ruined one."""


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene: every attribute drawn independently of the others."""
    named = {name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()}
    damaged = rng.random() < 0.5
    damage = rng.uniform(0.25, 1.0)
    return Scene(
        **named,
        warmth=float(rng.uniform(-1.0, 1.0)),
        horizon=float(rng.uniform(0.40, 0.78)),
        size=float(rng.uniform(0.75, 1.2)),
        offset=float(rng.uniform(-0.05, 0.05)),
        accent=float(rng.random()),
        light_x=float(rng.uniform(0.12, 0.88)),
        roll=float(rng.uniform(0.0, 2 * np.pi)),
        damage=float(damage) if damaged else 0.0,
    )


def mirrored(scene: Scene) -> Scene:
    """The scene of the horizontally flipped picture, as far as its prompt goes."""
    swap = {"left": "right", "right": "left"}
    return replace(scene, place=swap.get(scene.place, scene.place))


def prompt(scene: Scene) -> str:
    """The sentence that names the scene's four attributes and nothing else."""
    return _sentence(scene.subject, scene.place, scene.land, scene.time)


def all_prompts() -> list[str]:
    """Every full prompt, in the order of ``ATTRIBUTES``."""
    return [_sentence(*values) for values in product(*ATTRIBUTES.values())]


def encode(text: str) -> tuple[int, ...]:
    """Indices of the attributes that a prompt names, one per entry of ``ATTRIBUTES``.

    Values count from 1; 0 (``UNNAMED``) stands for what the prompt leaves open, so the empty prompt
    is all zeros. Words that name nothing are passed over, as a text encoder would.

    Raises:
        ValueError: the prompt names two values of one attribute.
    """
    named: dict[str, str] = {}
    clashes: list[str] = []
    for word in re.findall(r"[a-z]+", text.lower()):
        if word not in _WORDS:
            continue
        name, value = _WORDS[word]
        if named.setdefault(name, value) != value:
            clashes.append(f"{name}: {named[name]!r} and {value!r}; keep one of them")
    if clashes:
        raise ValueError(f"The prompt {text!r} names two of a kind: " + "; ".join(clashes) + ".")
    return tuple(
        values.index(named[name]) + 1 if name in named else UNNAMED
        for name, values in ATTRIBUTES.items()
    )


def draw(scene: Scene, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Draw a scene.

    ``rng`` scatters what a scene does not fix: stars, clouds, blots and scratches.

    Returns:
        (size, size, 3) float32 in [0, 1], sRGB.
    """
    canvas = _Canvas(size)
    light = np.array(_LIGHT[scene.time])
    _draw_sky(canvas, scene, rng)
    _draw_hills(canvas, scene, light)
    _SUBJECTS[scene.subject](canvas, scene, light)
    _grade(canvas, scene.warmth)
    _break_details(canvas, scene, rng)
    return np.clip(canvas.pixels, 0.0, 1.0).astype(np.float32)


def _sentence(subject: str, place: str, land: str, time: str) -> str:
    where = "in the centre" if place == "centre" else f"on the {place}"
    when = {"day": "by day", "sunset": "at sunset", "night": "at night"}[time]
    ground = {"meadow": "a meadow", "desert": "the desert", "snow": "the snow"}[land]
    over = "over" if subject == "balloon" else "in"
    return f"a {subject} {where}, {over} {ground}, {when}"


class _Canvas:
    """An RGB picture and the coordinates of its pixels."""

    def __init__(self, size: int) -> None:
        self.size = size
        middle = (np.arange(size) + 0.5) / size
        self.y, self.x = np.meshgrid(middle, middle, indexing="ij")
        self.pixels = np.zeros((size, size, 3))

    def paint(
        self, distance: np.ndarray, colour: np.ndarray | Colour, opacity: float | np.ndarray = 1.0
    ) -> None:
        """Lay ``colour`` over the inside of a signed distance field (size, size)."""
        cover = np.clip(0.5 - distance * self.size, 0.0, 1.0) * opacity
        self.blend(cover, colour)

    def blend(self, cover: np.ndarray, colour: np.ndarray | Colour) -> None:
        """Mix towards ``colour`` by ``cover`` (size, size) in [0, 1]."""
        self.pixels += cover[..., None] * (np.asarray(colour) - self.pixels)

    def circle(self, x: float, y: float, radius: float) -> np.ndarray:
        return np.hypot(self.x - x, self.y - y) - radius

    def ellipse(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> np.ndarray:
        """Close to the true distance near the edge, which is all that antialiasing needs."""
        dx, dy = self.x - x, self.y - y
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / a
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / b
        norm = np.hypot(u, v)
        slope = np.hypot(u / a, v / b) / np.maximum(norm, 1e-6)
        return (norm - 1.0) / np.maximum(slope, 1e-6)

    def box(self, x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
        return np.maximum(np.abs(self.x - x) - half_width, np.abs(self.y - y) - half_height)

    def segment(self, x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / max(dx * dx + dy * dy, 1e-9)
        along = np.clip(along, 0.0, 1.0)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) - radius

    def wedge(self, x: float, tip: float, half_width: float, height: float) -> np.ndarray:
        """An isosceles triangle with its tip at (x, tip), pointing down if ``height`` < 0."""
        down = (self.y - tip) * np.sign(height)
        run = np.hypot(half_width, height)
        side = (np.abs(self.x - x) * abs(height) - down * half_width) / run
        return np.maximum(side, down - abs(height))


def _hue(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _accent(scene: Scene) -> float:
    """Hue of the accent; the greens are left to the land."""
    return 0.56 + 0.59 * scene.accent


def _base_y(scene: Scene) -> float:
    """Where the subject meets the ground: below the horizon, further down with more land."""
    return scene.horizon + 0.42 * (1.0 - scene.horizon)


def _draw_sky(canvas: _Canvas, scene: Scene, rng: np.random.Generator) -> None:
    top, low = (np.array(colour) for colour in _SKY[scene.time])
    fall = np.clip(canvas.y / scene.horizon, 0.0, 1.0) ** 1.2
    canvas.pixels[:] = top + fall[..., None] * (low - top)
    if scene.time == "night":
        _draw_night(canvas, scene, rng)
        return
    low_sun = scene.time == "sunset"
    y = scene.horizon - 0.05 if low_sun else 0.16
    radius = 0.11 if low_sun else 0.075
    colour = (1.0, 0.80, 0.45) if low_sun else (1.0, 0.96, 0.72)
    reach = np.hypot(canvas.x - scene.light_x, canvas.y - y)
    canvas.blend(0.6 * np.exp(-((reach / (2.6 * radius)) ** 2)), colour)
    canvas.paint(reach - radius, colour)
    cloud = (1.0, 1.0, 1.0) if not low_sun else (0.95, 0.62, 0.55)
    for _ in range(2):
        _draw_cloud(canvas, rng.uniform(0.0, 1.0), rng.uniform(0.08, 0.3), cloud)


def _draw_night(canvas: _Canvas, scene: Scene, rng: np.random.Generator) -> None:
    for x, y in rng.uniform((0.0, 0.0), (1.0, scene.horizon - 0.06), size=(8, 2)):
        canvas.paint(canvas.circle(x, y, 0.011), (0.9, 0.92, 1.0))
    reach = canvas.circle(scene.light_x, 0.17, 0.0)
    canvas.blend(0.3 * np.exp(-((reach / 0.2) ** 2)), (0.7, 0.76, 0.9))
    bite = canvas.circle(scene.light_x + 0.04, 0.145, 0.072)
    canvas.paint(np.maximum(reach - 0.085, -bite), (0.97, 0.95, 0.82))


def _draw_cloud(canvas: _Canvas, x: float, y: float, colour: Colour) -> None:
    puffs = (
        canvas.ellipse(x, y, 0.13, 0.03),
        canvas.ellipse(x - 0.03, y - 0.025, 0.06, 0.035),
        canvas.ellipse(x + 0.04, y - 0.015, 0.05, 0.03),
    )
    canvas.paint(np.minimum.reduce(puffs), colour, 0.65)


def _draw_hills(canvas: _Canvas, scene: Scene, light: np.ndarray) -> None:
    far, near = (np.array(colour) * light for colour in _LAND[scene.land])
    if scene.time == "night" and scene.land == "snow":
        far, near = 1.5 * far, 1.5 * near
    haze = 0.2 * np.array(_SKY[scene.time][1]) + 0.8 * far
    wave = np.sin(2 * np.pi * 0.9 * canvas.x + scene.roll)
    ripple = np.sin(2 * np.pi * 1.7 * canvas.x + 2.3 * scene.roll)
    room = 1.0 - scene.horizon
    ridges = (
        (scene.horizon + 0.018 * wave + 0.010 * ripple, haze),
        (scene.horizon + 0.20 * room - 0.022 * wave + 0.008 * ripple, 0.5 * (far + near)),
        (scene.horizon + 0.50 * room + 0.020 * ripple, near),
    )
    for line, colour in ridges:
        # Darker away from its crest, so that the ridges stay apart in one colour.
        shade = 1.0 - 0.45 * np.clip(canvas.y - line, 0.0, 0.5)
        canvas.paint(line - canvas.y, shade[..., None] * colour)


def _draw_shadow(canvas: _Canvas, x: float, y: float, width: float) -> None:
    canvas.paint(canvas.ellipse(x, y, width, 0.022), (0.08, 0.08, 0.16), 0.35)


def _place(scene: Scene) -> tuple[float, float, float]:
    return _PLACE_X[scene.place] + scene.offset, _base_y(scene), scene.size


def _draw_tree(canvas: _Canvas, scene: Scene, light: np.ndarray) -> None:
    x, base, s = _place(scene)
    # Autumn to spring: hues between orange and green only.
    leaf = 0.06 + 0.30 * scene.accent
    dark, bright = (_hue(leaf, 0.75, value) * light for value in (0.48, 0.78))
    _draw_shadow(canvas, x, base, 0.16 * s)
    bark = np.array((0.40, 0.26, 0.16)) * light
    canvas.paint(canvas.segment(x, base - 0.01, x, base - 0.22 * s, 0.024 * s), bark)
    crown = ((-0.085, -0.24, 0.088), (0.085, -0.24, 0.088), (0.0, -0.34, 0.115))
    for dx, dy, radius in crown:
        canvas.paint(canvas.circle(x + dx * s, base + dy * s, radius * s), dark)
    for dx, dy, radius in crown:
        lit = canvas.circle(x + (dx - 0.022) * s, base + (dy - 0.026) * s, 0.62 * radius * s)
        canvas.paint(lit, bright)


def _draw_house(canvas: _Canvas, scene: Scene, light: np.ndarray) -> None:
    x, base, s = _place(scene)
    wall = np.array((0.96, 0.90, 0.80)) * light
    tile = _hue(_accent(scene), 0.65, 0.80) * light
    pane = (1.0, 0.85, 0.42) if scene.time != "day" else (0.45, 0.62, 0.78)
    _draw_shadow(canvas, x, base, 0.19 * s)
    canvas.paint(canvas.box(x + 0.09 * s, base - 0.29 * s, 0.022 * s, 0.06 * s), 0.7 * tile)
    canvas.paint(canvas.box(x, base - 0.09 * s, 0.145 * s, 0.09 * s), wall)
    canvas.paint(canvas.wedge(x, base - 0.36 * s, 0.195 * s, 0.19 * s), tile)
    canvas.paint(canvas.box(x - 0.055 * s, base - 0.055 * s, 0.032 * s, 0.055 * s), 0.6 * tile)
    canvas.paint(canvas.box(x + 0.065 * s, base - 0.1 * s, 0.036 * s, 0.032 * s), pane)


def _draw_flower(canvas: _Canvas, scene: Scene, light: np.ndarray) -> None:
    x, base, s = _place(scene)
    hue = _accent(scene)
    petal, rim = _hue(hue, 0.55, 0.98), _hue(hue + 0.03, 0.70, 0.82)
    # Petals keep some colour of their own at night.
    petal, rim = ((0.4 + 0.6 * light) * colour for colour in (petal, rim))
    green = np.array((0.22, 0.50, 0.20)) * light
    head = base - 0.33 * s
    _draw_shadow(canvas, x, base, 0.08 * s)
    canvas.paint(canvas.segment(x, base, x, head, 0.017 * s), green)
    for side in (-1.0, 1.0):
        leaf = canvas.ellipse(x + side * 0.06 * s, base - 0.1 * s, 0.06 * s, 0.024 * s, -side * 0.6)
        canvas.paint(leaf, green)
    for k in range(6):
        turn = np.pi / 6 + k * np.pi / 3
        px, py = x + 0.092 * s * np.cos(turn), head + 0.092 * s * np.sin(turn)
        canvas.paint(canvas.ellipse(px, py, 0.078 * s, 0.05 * s, turn), rim)
        canvas.paint(canvas.ellipse(px, py, 0.06 * s, 0.034 * s, turn), petal)
    heart = np.array((0.98, 0.80, 0.25)) * (0.3 + 0.7 * light)
    canvas.paint(canvas.circle(x, head, 0.052 * s), heart)


def _draw_balloon(canvas: _Canvas, scene: Scene, light: np.ndarray) -> None:
    x, base, s = _place(scene)
    y, radius = scene.horizon - 0.13 - 0.05 * s, 0.155 * s
    stripe, cloth = _hue(_accent(scene), 0.72, 0.90), np.array((0.98, 0.93, 0.84))
    stripe, cloth = ((0.3 + 0.7 * light) * colour for colour in (stripe, cloth))
    _draw_shadow(canvas, x, base + 0.06, 0.10 * s)
    basket = y + 1.78 * radius
    for side in (-1.0, 1.0):
        rope = canvas.segment(x + side * 0.06 * s, y + radius, x + side * 0.025 * s, basket, 0.006)
        canvas.paint(rope, 0.5 * cloth)
    # A circle drawn down to a neck.
    neck = canvas.wedge(x, y + 1.5 * radius, 0.92 * radius, -1.12 * radius)
    envelope = np.minimum(canvas.circle(x, y, radius), neck)
    canvas.paint(envelope, cloth)
    # Stripes follow the swell of the envelope.
    swell = np.sqrt(np.maximum(1.0 - ((canvas.y - y) / (1.7 * radius)) ** 2, 0.05))
    across = np.abs(canvas.x - x) / swell
    for low, high in ((-1.0, 0.2), (0.6, 1.4)):
        band = np.maximum(across - high * radius, low * radius - across)
        canvas.paint(np.maximum(envelope, band), stripe)
    wicker = np.array((0.5, 0.33, 0.2)) * light
    canvas.paint(canvas.box(x, basket + 0.02 * s, 0.034 * s, 0.027 * s), wicker)


_SUBJECTS = {
    "tree": _draw_tree,
    "house": _draw_house,
    "flower": _draw_flower,
    "balloon": _draw_balloon,
}


def _grade(canvas: _Canvas, warmth: float) -> None:
    """Tint the whole picture between blue (-1) and amber (1)."""
    canvas.pixels *= np.exp(warmth * np.array((0.20, 0.02, -0.30)))
    np.clip(canvas.pixels, 0.0, 1.0, out=canvas.pixels)


def _break_details(canvas: _Canvas, scene: Scene, rng: np.random.Generator) -> None:
    """Blots and scratches, as on a badly kept print."""
    inks = ((0.06, 0.05, 0.09), (0.97, 0.97, 0.95), (0.85, 0.12, 0.45), (0.10, 0.75, 0.70))
    for _ in range(round(16 * scene.damage)):
        x, y = rng.random(2)
        ink = inks[rng.integers(len(inks))]
        canvas.paint(canvas.circle(x, y, rng.uniform(0.018, 0.032)), ink, 0.9)
    for _ in range(round(3 * scene.damage)):
        x, y, turn = rng.random(), rng.random(), rng.uniform(-0.9, 0.9)
        reach = rng.uniform(0.1, 0.28)
        dx, dy = reach * np.sin(turn), reach * np.cos(turn)
        canvas.paint(canvas.segment(x - dx, y - dy, x + dx, y + dy, 0.010), inks[1], 0.9)
