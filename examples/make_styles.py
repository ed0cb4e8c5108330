"""Draw the six style pictures: python examples/make_styles.py [OUT_FOLDER].

Everything is drawn at twice the final size and reduced with a Lanczos filter, so
that no edge is jagged. Most pictures are painted: thousands of curved strokes, coarse
to fine, each with its own bristles, leave colour and relief on a canvas that is lit
from the side in the end.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Array = np.ndarray
Rng = np.random.Generator

WIDTH, HEIGHT = 1600, 1280
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
STEP = 0.7  # pixels between the samples of a stroke: below 1, so that no holes remain


def palette(names: str) -> Array:
    """Colours in 0..1 from names such as "102040 f0c030"."""
    return np.array([list(bytes.fromhex(name)) for name in names.split()], np.float32) / 255


def ramp(colours: Array, t: Array) -> Array:
    """The colour at t (0..1) of a gradient through evenly spaced colours."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, stops, c) for c in colours.T], -1).astype(np.float32)


def mix(a: Array, b: Array, t: Array) -> Array:
    """Blend the colours a and b: t = 0 gives a, t = 1 gives b."""
    return a + (b - a) * np.asarray(t, np.float32)[..., None]


def smooth(low: float, high: float, x: Array) -> Array:
    """Rise softly from 0 at low to 1 at high (or fall, where low > high)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def unit(angle: Array) -> Array:
    """The points of the unit circle at some angles."""
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def noise(rng: Rng, across: float, down: float | None = None, octaves: int = 3) -> Array:
    """Soft random hills of the given size in pixels; mean 0, deviation 1."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for scale in 2 ** np.arange(octaves):
        columns, rows = int(WIDTH * scale / across) + 3, int(HEIGHT * scale / (down or across)) + 3
        grid = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
        inner = (1, 1, columns - 1, rows - 1)
        total += np.asarray(grid.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, inner)) / scale
    return (total - total.mean()) / total.std()


def at(field: Array, points: Array) -> Array:
    """Values of a field at points (..., 2), the border standing in for all beyond it."""
    x, y = np.moveaxis(points, -1, 0)
    return field[np.clip(y, 0, HEIGHT - 1).astype(int), np.clip(x, 0, WIDTH - 1).astype(int)]


def scatter(rng: Rng, count: int, margin: float = 60) -> Array:
    """Random points on the canvas and a little around it."""
    return rng.uniform(-margin, (WIDTH + margin, HEIGHT + margin), (count, 2))


def jitter(rng: Rng, colours: Array, by: float) -> Array:
    """Vary each colour a little, more in lightness than in hue."""
    n = len(colours)
    varied = colours * (1 + rng.normal(0, by, (n, 1))) + rng.normal(0, by / 3, (n, 3))
    return np.clip(varied, 0, 1).astype(np.float32)


def follow(angle: Array, starts: Array, length: float) -> Array:
    """Paths (n, steps, 2) that run along a field of angles."""
    path = [starts]
    for _ in range(int(length / STEP)):
        path.append(path[-1] + STEP * unit(at(angle, path[-1])))
    return np.stack(path, 1).astype(np.float32)


def curve(start: Array, angle: Array, length: Array, bend: Array = 0.0) -> Array:
    """Paths that set out at an angle and turn evenly by `bend` radians in all."""
    angle, length, bend = np.broadcast_arrays(*(np.c_[v] for v in (angle, length, bend)))
    steps = int(length.max() / STEP) + 2
    path = unit(angle + bend * np.linspace(0, 1, steps)).cumsum(1) * length[..., None] / steps
    return (np.atleast_2d(start)[:, None] + path).astype(np.float32)


class Canvas:
    """The colour and the relief of paint, and the brush that lays it on."""

    def __init__(self, rng: Rng, ground: Array) -> None:
        self.rng = rng
        self.colour = ground.astype(np.float32)
        self.relief = np.zeros((HEIGHT, WIDTH), np.float32)
        # Streaks as the hairs of a brush leave them: thin, long, and some in clumps.
        raw = rng.standard_normal((2, 512, 2048)).astype(np.float32)
        fine = gaussian_filter(raw[0], (1.6, 60), mode="wrap")
        broad = gaussian_filter(raw[1], (6, 160), mode="wrap")
        self.hairs = (fine / fine.std() + broad / broad.std()) / 2**0.5

    def paint(
        self,
        paths: Array,
        widths: Array | float,
        colours: Array,
        second: Array | None = None,
        dry: float = 0.0,
        body: float = 1.0,
    ) -> None:
        """Lay strokes along paths (n, steps, 2), the later ones over the earlier.

        `widths` may differ by stroke and step, `second` is a colour half mixed into the
        first, `dry` how much the hairs skip (more towards the end), `body` the thickness.
        """
        n, steps, _ = paths.shape
        widths = np.broadcast_to(np.asarray(widths, np.float32), (n, steps))
        colours = np.broadcast_to(colours, (n, 3))
        second = colours if second is None else second
        batch = max(1, int(1_500_000 / steps / widths.max()))
        for i in range(0, n, batch):
            self._stamp(*(a[i : i + batch] for a in (paths, widths, colours, second)), dry, body)

    def _stamp(
        self, paths: Array, widths: Array, colours: Array, second: Array, dry: float, body: float
    ) -> None:
        """Lay a batch of strokes: every sample of every stroke falls on its nearest pixel."""
        (n, steps, _), hairs = paths.shape, int(widths.max() / STEP) + 2
        u = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # along the stroke
        v = np.linspace(-1, 1, hairs, dtype=np.float32)  # across it
        along = np.gradient(paths, axis=1)
        along /= np.linalg.norm(along, axis=-1, keepdims=True) + 1e-9
        half = widths[..., None] / 2
        x = (paths[..., :1] - along[..., 1:] * half * v + 0.5).astype(np.int32)
        y = (paths[..., 1:] + along[..., :1] * half * v + 0.5).astype(np.int32)
        row = self.rng.integers(0, 512, (n, 1, 1)) + np.arange(hairs)
        column = self.rng.integers(0, 2048, (n, 1, 1)) + np.arange(steps)[:, None]
        hair = self.hairs[row % 512, column % 2048]
        blend = self.hairs[(row + 200) % 512, (column + 900) % 2048]

        # The ends are round, drawn out where the brush lifts; at the rim single hairs show.
        length = np.linalg.norm(np.diff(paths, axis=1), axis=-1).sum(1)[:, None, None]
        reach = length / np.maximum(half, 1)
        end = np.maximum(0, np.maximum(1 - u * reach, 1 - (1 - u) * reach / 2))
        inset = 1 - np.hypot(v, end)
        keep = hair + np.minimum(12 * inset - 1, 3.5 - dry * (1 + 2 * u)) > 0
        keep &= (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)

        where, stroke, hair = (y[keep], x[keep]), np.nonzero(keep)[0], hair[keep]
        tint = mix(colours[stroke], second[stroke], smooth(0.0, 1.2, blend[keep]))
        self.colour[where] = tint * (1 + 0.08 * hair)[:, None]
        ridge = np.sqrt(widths)[..., None] * (1 + 0.5 * v**2 - 1.2 * v**12)
        thick = ridge[keep] + 0.33 * hair * np.sqrt(widths.max())
        self.relief[where] = 0.35 * self.relief[where] + body * thick

    def cover(
        self,
        under: Array,
        angle: Array,
        layers: list[tuple[int, float, float]],
        accents: Array,
        share: Array | float = 0.0,
    ) -> None:
        """Cover everything with strokes along `angle` in the colours of `under`.

        Each layer is (count, length, width), coarse to fine; a share of the strokes takes
        one of the accents instead.
        """
        for count, length, width in layers:
            paths = follow(angle, scatter(self.rng, count), length)
            middle = paths[:, paths.shape[1] // 2]
            colours = at(under, middle)
            chosen = self.rng.random(count) < at(np.broadcast_to(share, X.shape), middle)
            colours[chosen] = self.rng.choice(accents, chosen.sum())
            first, second = jitter(self.rng, colours, 0.09), jitter(self.rng, colours, 0.2)
            self.paint(paths, width * self.rng.uniform(0.6, 1, (count, 1)), first, second)

    def lit(self) -> Array:
        """The canvas in a light from the side."""
        dy, dx = np.gradient(gaussian_filter(self.relief, 1.1))
        slope = np.clip(0.22 * dx + 0.16 * dy, -0.45, 0.45)
        return self.colour * (1 + slope)[..., None] + 0.5 * np.clip(slope - 0.17, 0, 1)[..., None]


def strokes(rng: Rng) -> Array:
    """Whirls of thick paint: a night sky in blue and teal with lights of gold."""
    whirls = [(430, 400, 300, 1), (1130, 330, 230, -1), (960, 900, 330, 1), (240, 1010, 210, -1)]
    whirls += [(1480, 720, 170, 1), (760, 120, 120, -1), (610, 730, 130, -1), (1390, 1130, 150, -1)]
    stream, glow = 0.55 * Y + 0.19 * X + 60 * noise(rng, 500, octaves=1), 0 * X
    for x, y, radius, turn in whirls:
        r = np.hypot(X - x, Y - y) / radius
        stream += turn * 1.5 * radius * np.exp(-r * r)
        glow = np.maximum(glow, np.exp(-((r * 2.1) ** 2)))
    dy, dx = np.gradient(gaussian_filter(stream, 6))

    night = palette("081233 0d2257 12408c 1b6bb0 1f93a8 7cc9c0 d9ecd2")
    lamps = palette("1f93a8 8cc7a0 f2d66b f7b52c ee7a1f fbe9a6")
    band = 0.42 + 0.27 * np.sin(stream / 21 + noise(rng, 300)) + 0.12 * noise(rng, 200)
    under = mix(ramp(night, band), ramp(lamps, glow * 1.1 - 0.05), smooth(0.16, 0.5, glow))
    canvas = Canvas(rng, under)
    layers = [(1300, 260, 70), (2400, 190, 46), (2600, 130, 30), (1500, 80, 19)]
    gold = palette("f6c445 f08a24 fff1c0 7fe0d0 e8552a")
    canvas.cover(under, np.arctan2(-dx, dy), layers, gold, 0.035)
    return canvas.lit()


def relaxed(cells: Array, crowd: Array) -> Array:
    """Lloyd's relaxation: each cell moves, again and again, amid the crowd around it."""
    for _ in range(6):
        owner = cKDTree(cells).query(crowd)[1]
        count = np.maximum(np.bincount(owner, minlength=len(cells)), 1)
        cells = np.stack([np.bincount(owner, c, len(cells)) / count for c in crowd.T], -1)
    return cells


def voronoi(cells: Array, points: Array) -> tuple[Array, Array]:
    """For each point its nearest cell, and how far it lies from the border of that cell."""
    near, index = cKDTree(cells).query(points, 4)
    apart = np.linalg.norm(cells[index[..., 1:]] - cells[index[..., :1]], axis=-1)
    return index[..., 0], ((near[..., 1:] ** 2 - near[..., :1] ** 2) / (2 * apart)).min(-1)


def glass(rng: Rng) -> Array:
    """A leaded window: a rose of a sun over hills and water, each pane glowing."""
    sun = np.array([960, 500])
    r, turn = np.hypot(X - sun[0], Y - sun[1]), np.arctan2(Y - sun[1], X - sun[0])
    rays = np.sin(turn * 9 + 0.9 * np.sin(r / 170)) * r / 9
    hill = Y - 930 - 90 * np.sin(X / 260 + 0.6) - 50 * np.sin(X / 117)
    lake = Y - 1090 - 60 * np.sin(X / 330 + 3.4) - 25 * np.sin(X / 90)
    parts = [  # from back to front: where each part is (above 0) and the colours of its panes
        (X + 999, "1a3fc0 0f66d9 2b2fae 2497e8 1450b8"),
        (rays, "7a2fc2 b52a9a 5b2bb8 d8488f 8b3fd0"),
        (400 - r, "ff7b1c f2341d d3183a ffab2b e8281f"),
        (190 - r, "ffe680 ffc21f fff4c4 ffa51f ffd84a"),
        (hill, "0c9f5a 69c02f 067a5b c6cf26 1fae74"),
        (lake, "0a8fc0 06b6b8 0b55b0 5ad6cc 0c73a8"),
    ]

    # Lloyd's relaxation gives calm panes, smaller towards the ground; rings make the rose.
    crowd = scatter(rng, 50_000, 120)
    crowd = crowd[rng.random(len(crowd)) < np.clip((crowd[:, 1] - 100) / 900, 0.2, 1) ** 2]
    cells = relaxed(scatter(rng, 210, 120), crowd)
    cells = cells[np.hypot(*(cells - sun).T) > 430]
    for far, count in [(0, 1), (80, 8), (154, 16), (226, 16), (310, 24), (372, 48)]:
        cells = np.vstack([cells, sun + far * unit(np.arange(count) * 2 * np.pi / count + far)])
    places = np.stack([X + 4 * noise(rng, 160), Y + 4 * noise(rng, 160)], -1)
    index, border = voronoi(cells, places)

    pick = rng.random(len(cells))[index]
    lead, colour = np.full_like(X, 999), np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for shape, names in parts:
        inside = shape > 0
        colour[inside] = ramp(palette(names), pick[inside])
        lead = np.where(inside, shape, np.minimum(lead, -shape))
    seam = np.minimum(border - 5, lead - 8) + 0.6 * noise(rng, 30)

    # Each pane is streaked and shaded in a direction of its own.
    along = ((places - cells[index]) * unit(pick * 99)).sum(-1)
    bent = along + 9 * noise(rng, 110)
    streaks = np.sin(bent / 3.1 + 2 * noise(rng, 60)) * smooth(-1, 1, noise(rng, 90))
    streaks += np.sin(bent / 8) + 0.7 * noise(rng, 150)
    glow = 0.76 + 0.3 * smooth(-2, 24, seam) + 0.0035 * along + 0.055 * streaks
    colour = mix(colour * glow[..., None], palette("fff8e0"), 0.6 * smooth(1.0, 1.5, glow))
    came = gaussian_filter(np.sqrt(np.clip(1 - (seam / 9 + 0.6) ** 2, 0, 1)), 1.5)
    shine = np.clip(2.2 * sum(np.gradient(came)), 0, 0.5)
    metal = mix(palette("1b1a22"), palette("e4dff7"), shine)
    return mix(colour, metal, smooth(1.2, -1.2, seam))


def circles(rng: Rng) -> Array:
    """Overlapping discs and arcs in brick, ochre and cream, tied by black lines."""
    tints = palette("b3261e d9482b e8843c efb24a f4dca6 7a1420 f7ead0 26303c c96f4a 2f6f73 f0b9a0")
    centres = np.array([[200, -100], [1700, 1300], [60, 1300], [1560, 60], [560, 520]])
    radii = np.array([1100, 820, 560, 640, 340])
    while len(centres) < 21:  # smaller and smaller discs, each where the most room is left
        free = scatter(rng, 60, 20)
        room = np.linalg.norm(free[:, None] - centres[4:], axis=-1) - 0.8 * radii[4:]
        centres = np.vstack([centres, free[room.min(1).argmax()]])
        radii = np.append(radii, 60 + 330 * 0.86 ** (len(centres) - 4))
    discs = list(zip(centres, radii, strict=True))
    angle, under = 0 * X, ramp(palette("efd9ae e9c07c"), X / WIDTH)
    for (x, y), radius in discs:
        r, turn = np.hypot(X - x, Y - y), np.arctan2(Y - y, X - x)
        rings = int(np.clip(radius // 55, 3, 7))
        ring = np.minimum((r / radius) ** 0.9 * rings, rings - 1).astype(int)
        quarter = ((turn + rng.uniform(0, 6.3)) / np.pi * 2).astype(int) % 4
        picks = np.stack([rng.permutation(len(tints))[:4] for _ in range(rings)])
        under = np.where((r < radius)[..., None], tints[picks[ring, quarter]], under)
        angle = np.where(r < radius, turn + np.pi / 2, angle)

    canvas = Canvas(rng, under)
    canvas.cover(under, angle, [(1800, 120, 52), (5000, 80, 32), (8000, 56, 19)], tints)
    black = palette("17130f")
    for centre, radius in discs:
        for scale in rng.choice([1.0, 0.62, 0.3, 1.12], rng.integers(1, 3), replace=False):
            start, sweep, far = rng.uniform(0, 6.3), rng.uniform(2, 5.5), scale * radius
            arc = curve(centre + far * unit(start), start + np.pi / 2, far * sweep, sweep)
            canvas.paint(arc, rng.uniform(8, 22), black, dry=0.6, body=0.6)
    for x in range(150, 1600, 260):
        line = curve([x, rng.uniform(0, 900)], rng.uniform(0.3, 2.8), rng.uniform(300, 900))
        canvas.paint(line, rng.uniform(7, 14), black, dry=0.7, body=0.6)
    return canvas.lit()


def line(distance: Array, width: Array) -> Array:
    """1 on a line of the given half width, 0 beside it."""
    return smooth(1.2, -1.2, np.abs(distance) - width)


def scales(x: Array, y: Array, radius: float) -> tuple[Array, Array]:
    """Rows of discs, each row before the one above: distance to the centre, and a number."""
    distance, number = np.full_like(x, radius), np.zeros(x.shape, int)
    for ahead in (0, 1, 2):
        row = np.floor(2 * y / radius).astype(int) + ahead
        shift = (row % 2) * radius
        column = np.round((x - shift) / (2 * radius)).astype(int)
        d = np.hypot(x - column * 2 * radius - shift, y - row * radius / 2)
        number = np.where(d < radius, row * 31 + column * 17, number)
        distance = np.where(d < radius, d, distance)
    return distance / radius, number


def spray(crest: Array, size: float) -> Array:
    """Distance to the foam of a wave: beads that melt into a rim along its crest."""
    foam = np.abs(Y - crest - 0.3 * size) - 0.55 * size
    for bead in np.floor(X / size).astype(int) + np.array([-1, 0, 1])[:, None, None]:
        middle = (bead + 0.5 + 0.25 * np.sin(bead * 7.7)) * size
        high = crest[0, np.clip(middle, 0, WIDTH - 1).astype(int)]
        radius = size * (0.6 + 0.2 * np.sin(bead * 12.9 + size))
        foam = np.minimum(foam, np.hypot(X - middle, Y - high) - radius)
    return foam


def wave(rng: Rng) -> Array:
    """A woodblock print: bands of rolling waves in Prussian blue under a vermilion sun."""
    paper, prussian, vermilion = palette("f1e7d0 123a63 d8432b")
    inks = palette("0d2a50 164478 2c6ca3 5f9dba a9cbc6 d5e0d2 123a68")
    grain = np.sin(9 * noise(rng, 1500, 170, 2) + Y / 7 + 0.4 * noise(rng, 300, 30))
    mottle = noise(rng, 14)
    knife = 1 + 0.18 * mottle  # carved lines swell and shrink

    picture = mix(palette("3c7a9c"), palette("f0dfbd"), smooth(-40, 330, Y + 12 * grain))
    picture = mix(picture, palette("f2c79a"), smooth(200, 470, Y) * 0.8)
    sun = np.hypot(X - 1090, Y - 330) - 190 + 2 * noise(rng, 70)
    picture = mix(picture, vermilion, smooth(1.5, -1.5, sun))
    for k in range(9):  # drifting mist
        drift = Y - 50 - 42 * k - 16 * np.sin(X / 210 + k) - 7 * np.sin(X / 83 + 2 * k)
        bank = np.sin(X / 250 + k * 2.6) * (10 + 2 * k) - 6
        picture = mix(picture, paper, smooth(1.5, -1.5, np.abs(drift) - bank))
        edge = line(np.abs(drift) - bank, 1.4 * knife) * smooth(-1, 1, bank)
        picture = mix(picture, prussian, edge)

    for k in range(8):  # waves, from far to near
        size, phase = 24 + 8 * k, X / (95 + 15 * k) + rng.uniform(0, 6.3)
        swell = 2 * np.abs(np.sin(phase / 2 + 0.45 * np.sin(phase + 0.9))) ** 1.3 - 1
        crest = 400 + 100 * k + 5 * k**1.6 + (50 + 9 * k) * swell + 12 * np.sin(X / 71 + k)
        depth = Y - crest
        if k % 2 == 0:  # scales, as on old kimonos; a few with a red ring
            distance, number = scales(X + 0.25 * depth, depth, 1.5 * size)
            chance, ring = rng.permutation(211)[number % 211], (distance * 4).astype(int)
            fill = inks[np.where(ring % 2 == 0, chance % 4, 3 + chance % 3)]
            fill = mix(fill, vermilion, (chance % 19 == 0) & (ring == 1))
            rings = line(((4 * distance + 0.5) % 1 - 0.5) * size * 0.375, 1.8 * knife)
            carved = np.maximum(rings, line(1.5 * size * (distance - 1), 3 * knife))
        else:  # long lines along the swell
            flow = depth + 5 * np.sin(X / 60 + depth / 25) + 3 * noise(rng, 200, 60)
            row, rest = np.divmod(flow, 0.55 * size)
            fill = ramp(inks[:4] if k % 4 == 1 else inks[[6, 1, 0]], row * 0.37 % 1)
            gaps = line(rest - 0.3 * size, 1.5 * knife) * (0.5 + 0.5 * (mottle > -0.6))
            carved = np.maximum(gaps, smooth(1.5, -1.5, np.abs(rest - 6) - 3))
        picture = mix(picture, mix(fill, paper, carved), smooth(-1.2, 1.2, depth))
        foam = spray(crest, 15 + 4 * k)
        edge = np.maximum(line(foam, 2.4 * knife), line(foam + 6.3 + 1.7 * k, 1.1 * knife))
        picture = mix(mix(picture, paper, smooth(1.2, -1.2, foam)), prussian, edge)

    # Wood grain and uneven ink show most in the dark flats, fibres of the paper everywhere.
    wear = smooth(0.9, 0.1, picture.mean(-1)) * (0.16 * smooth(0.1, 1, grain) + 0.04 * mottle)
    picture = mix(picture, paper, np.clip(wear, 0, 1))
    return picture * (1 + 0.02 * noise(rng, 60, 6) - 0.03 * smooth(0.2, 1, grain))[..., None]


def branch(canvas: Canvas, start: Array, angle: float, length: float, width: float) -> list[Array]:
    """Draw a knotty branch and smaller ones from its sides; return places for blossoms."""
    rng = canvas.rng
    path = curve(start, angle, length, rng.normal(0, 0.5))
    t = np.linspace(0, 1, path.shape[1])
    knots = np.interp(t, np.linspace(0, 1, 12), rng.normal(0, 1, 12))
    path[0, :, 1] += gaussian_filter(knots, 12) * width / 2
    swell = np.interp(t, np.linspace(0, 1, 9), rng.uniform(0.7, 1.2, 9)) * (1 - 0.55 * t)
    grey = palette("12110f") + rng.uniform(0, 0.1)
    canvas.paint(path, width * swell, grey, dry=rng.uniform(0.5, 1.2), body=0)
    tips = [path[0, int(share * (len(t) - 1))] for share in (0.35, 0.67, 1)]
    if width > 9:
        for share in rng.uniform(0.2, 0.95, rng.integers(3, 6)):
            side = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
            fork, shorter = path[0, int(share * len(t))], length * rng.uniform(0.3, 0.6)
            tips += branch(canvas, fork, side, shorter, width / 2)
    return tips


def ink(rng: Rng) -> Array:
    """Ink and wash: mountains in mist, a red sun, a branch of plum blossom."""
    fibre = 0.012 * noise(rng, 40, 8) + 0.018 * noise(rng, 260) + 0.012 * noise(rng, 6)
    canvas = Canvas(rng, palette("fbead0") * (1 + fibre)[..., None])
    pigment = 1 + 0.1 * noise(rng, 10) + 0.2 * noise(rng, 90)  # ink settles in grains
    black, red, pale = palette("12110f c5281b f2b8a8")

    def wash(shape: Array, tint: Array, strength: Array) -> None:
        """Stain the paper; at its wet rim (shape = 0) the ink is darkest."""
        rim = 0.3 * np.exp(-np.abs(shape - 5) / 5)
        cover = np.clip(smooth(-2, 6, shape) * strength * (pigment + rim), 0, 1)
        canvas.colour *= mix(np.ones(3), tint, cover)

    for height in rng.uniform(0, 420, 7):  # clouds: broad, wet, one over the other
        cloud = 60 * noise(rng, 420, 170) - np.abs(Y - height) * 0.8 - 45
        wash(cloud, palette("3a4048"), 0.22 * smooth(0, 120, cloud) + 0.03)
    wash(160 - np.hypot(X - 1110, Y - 270) + 2 * noise(rng, 70), red, 0.85)
    for k in range(6):  # mountains, from far to near
        peaks = np.abs(noise(rng, 700 - 50 * k, octaves=6)[300])
        ridge = 590 + 122 * k - (95 + 9 * k) * peaks
        depth = Y - ridge + 3 * noise(rng, 30)
        fade = np.exp(-np.clip(depth, 0, None) / (100 + 16 * k))
        wash(depth, black + 0.05, (0.22 + 0.11 * k) * fade)
        # Dry strokes run down from the ridge, to the side it falls to.
        count = 150 + 45 * k
        x, below = rng.uniform(-20, WIDTH, count), np.sort(rng.gamma(1.2, 26 + 6 * k, count))
        fall = np.interp(x, X[0], np.arctan(np.gradient(gaussian_filter(ridge, 14))))
        steep = 0.45 * (fall + np.pi * (fall < 0) - np.pi / 2) + rng.normal(0, 0.12, count)
        start = np.stack([x, np.interp(x, X[0], ridge) + below], -1)
        length, width = rng.uniform(30, 80 + 12 * k, count), rng.gamma(2, 4 + 1.1 * k, (count, 1))
        grey = black + np.abs(0.5 - 0.1 * k + rng.normal(0, 0.04, (count, 1)))
        paths = curve(start, np.pi / 2 + steep, length, -0.7 * steep)
        canvas.paint(paths, width + 4, grey, dry=1.9, body=0)

    tips = branch(canvas, np.array([-30, 560]), -0.62, 760, 58)
    tips += branch(canvas, np.array([-30, 330]), 0.12, 620, 34)
    tips += branch(canvas, np.array([1640, 900]), -2.75, 560, 42)
    for tip in np.array(tips)[rng.random(len(tips)) < 0.36]:
        size, a = rng.uniform(13, 32), rng.uniform(0, 6.3) + np.arange(rng.integers(3, 6)) * 1.26
        tint = np.tile(red + (pale - red) * rng.choice([0, 0, 0.35, 0.75]), (len(a), 1))
        pink = jitter(rng, tint, 0.12)
        canvas.paint(curve(tip, a, size, 0.4), 0.95 * size, pink, pink + 0.2, dry=0.5, body=0)
        canvas.paint(curve(tip, a, 0.4 * size), 3, black, body=0)
    for spot in scatter(rng, 190, 0):  # splashes
        size, tint = rng.gamma(1.3, 2.6) + 2, red if rng.random() < 0.2 else black
        canvas.paint(curve(spot, rng.uniform(0, 6.3), size), size, tint + 0.04, body=0)
    return canvas.colour


def flowers(rng: Rng) -> Array:
    """A meadow of petals in dabs of pure colour: pinks, violets and greens."""
    greens = palette("0a4a4a 13784f 4fa050 a9c650 1b8a8a 0b4a66")
    hues = palette("f25a9b e8327c f7a3c4 d81e5b 8f4fd0 b57be8 ff7f6b fbd3dc 5d3fc0 f9b233")
    under = ramp(greens, 0.5 + 0.2 * noise(rng, 260) + (640 - Y) / 4000)
    under = mix(under, palette("5a4bb0"), smooth(0.3, 1.3, noise(rng, 400)) * 0.8)
    canvas = Canvas(rng, under)
    layers = [(2600, 75, 54), (5200, 46, 34), (6500, 30, 21)]
    far_away = 0.16 * smooth(900, 0, Y)  # flowers too small to be more than a dab
    canvas.cover(under, -np.pi / 2 + 0.6 * noise(rng, 300), layers, hues, far_away)
    spots = scatter(rng, 1)
    while len(spots) < 150:
        free = scatter(rng, 4, 40)
        room = np.linalg.norm(free[:, None] - spots, axis=-1).min(1)
        spots = np.vstack([spots, free[room.argmax()]])
    for spot in spots[np.argsort(spots[:, 1])]:
        size = rng.uniform(46, 90) * (0.4 + 0.95 * spot[1] / HEIGHT)
        shade = jitter(rng, np.tile(greens[-1] * 0.8, (14, 1)), 0.2)
        leaves = curve(spot + np.array([6, 12]), np.arange(14) * 0.45, 1.05 * size, 0.5)
        canvas.paint(leaves, 0.3 * size, shade)
        hue, other = rng.choice(hues, 2, replace=False)
        for far, count in [(1.0, 15), (0.72, 12), (0.42, 8)]:
            a = np.arange(count) * 2 * np.pi / count + rng.normal(0, 0.2, count)
            rim = spot + size * far * unit(a) * [1, 0.85]
            petals = curve(rim, a + np.pi + 0.3, 0.75 * size * far, rng.normal(0.3, 0.3, count))
            tint = np.tile(hue * (0.6 + 0.4 * far) + 0.25 * (other - hue) * (1 - far), (count, 1))
            light = jitter(rng, tint + 0.1, 0.14)
            canvas.paint(petals, 0.4 * size, jitter(rng, tint, 0.12), light, body=1.3)
        a = rng.uniform(0, 6.3, 9)
        heart = spot + 0.16 * size * unit(a) * rng.random((9, 1))
        yolk = rng.choice(palette("ffd23f f79a1e fff0a0"), 9)
        canvas.paint(curve(heart, a, 0.2 * size, 0.5), 0.16 * size, yolk)
    return canvas.lit()


def save(picture: Array, path: Path) -> None:
    """Reduce to half the size and write as JPEG."""
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    small = Image.fromarray(pixels).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS)
    small.save(path, quality=92, optimize=True)


def main() -> None:
    """Draw every picture into the folder named on the command line, or examples/style."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "style"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, draw in enumerate([strokes, glass, circles, wave, ink, flowers]):
        save(draw(np.random.default_rng(seed)), folder / f"{draw.__name__}.jpg")


if __name__ == "__main__":
    main()
