"""Small pictures that need no download: shapes, each in its own colour, on a noisy ground, and where they are."""

import numpy as np

SHAPES = ("disc", "square", "cross", "ring")
COLOURS = np.array([(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1)], "float32")
MOST = 3  # shapes in one scene, at most


def shapes(count: int, pixels: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, pixels, pixels, 3) in -1..1 with one shape each, and which of SHAPES it is (count,)."""
    draw = np.random.default_rng(seed)
    pictures = _ground(draw, count, pixels)
    labels = draw.permutation(np.arange(count) % len(SHAPES)).astype("int32")
    for picture, label in zip(pictures, labels, strict=True):
        _paint(draw, picture, label, size=int(pixels * draw.uniform(0.5, 0.8)))
    return pictures, labels


def scenes(count: int, pixels: int, *, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return pictures with 1 to MOST shapes, and for each boxes (MOST, 4) in pixels, labels, and a mask of the real ones."""
    draw = np.random.default_rng(seed)
    pictures = _ground(draw, count, pixels)
    boxes, mask = np.zeros((count, MOST, 4), "float32"), np.zeros((count, MOST), "float32")
    labels = draw.integers(0, len(SHAPES), (count, MOST)).astype("int32")
    for n, picture in enumerate(pictures):
        for place in range(draw.integers(1, MOST + 1)):
            boxes[n, place] = _paint(draw, picture, labels[n, place], size=int(pixels * draw.uniform(0.25, 0.45)))
            mask[n, place] = 1
    return pictures, {"boxes": boxes, "labels": labels, "mask": mask}


def _ground(draw: np.random.Generator, count: int, pixels: int) -> np.ndarray:
    return draw.uniform(-0.3, 0.3, (count, pixels, pixels, 3)).astype("float32")


def _paint(draw: np.random.Generator, picture: np.ndarray, label: int, *, size: int) -> tuple[int, int, int, int]:
    """Paint a shape somewhere into the picture; return its box: x1, y1, x2, y2."""
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    away = np.hypot(across, down)
    forms = (away < 1.05, away < 2, (abs(across) < 0.3) | (abs(down) < 0.3), (away < 1.05) & (away > 0.6))
    left, top = draw.integers(0, len(picture) - size + 1, 2)
    picture[top : top + size, left : left + size][forms[label]] = COLOURS[label]
    return left, top, left + size, top + size
