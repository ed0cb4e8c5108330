"""Whose colours a picture has: Gatys et al., "Controlling Perceptual Factors in Neural Style
Transfer" (CVPR 2017), section 5. Images are float32 sRGB, [H, W, 3] in 0..255.
"""

from collections.abc import Callable

import numpy as np


def prepare(
    colors: str, content: np.ndarray, styles: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Content and styles as they are to be used, and what to do to each image that comes of them.

    colors: "style" changes nothing; "match" gives the styles the content's colours; "content"
    transfers style in lightness alone, and gives the result the content's colours.
    """
    if colors == "match":
        return content, [match(style, content) for style in styles], lambda image: image
    if colors == "style":
        return content, styles, lambda image: image
    lab = to_lab(content)

    def grey(lightness):
        return from_lab(np.stack([lightness, 0 * lightness, 0 * lightness], axis=-1))

    def alike(style):
        lightness = to_lab(style)[..., 0]
        spread = lab[..., 0].std() / max(lightness.std(), 1e-6)
        return grey((lightness - lightness.mean()) * spread + lab[..., 0].mean())

    def finish(image):
        from nstlib.images import resize

        photograph = to_lab(resize(content, *image.shape[:2]))
        return from_lab(np.concatenate([to_lab(image)[..., :1], photograph[..., 1:]], axis=-1))

    return grey(lab[..., 0]), [alike(style) for style in styles], finish


def match(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The style with the content's mean colour and its covariance (the paper's eq. 10, in the
    symmetric form): colours as they go together, changed linearly and as little as that takes."""

    def statistics(image):
        pixels = image.reshape(-1, 3).astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(pixels.T) + 1e-3 * np.eye(3))
        return pixels.mean(axis=0), values, vectors

    mean, values, vectors = statistics(style)
    whiten = vectors / np.sqrt(values) @ vectors.T
    wanted, values, vectors = statistics(content)
    colour = vectors * np.sqrt(values) @ vectors.T
    return np.float32((style - mean) @ whiten @ colour + wanted).clip(0, 255)


# CIELAB (CIE 15:2004) over linear sRGB (IEC 61966-2-1), both with the white point D65.
RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
WHITE = RGB_TO_XYZ.sum(axis=1)
OFFSET = np.array([16, 0, 0])
XYZ_TO_LAB = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]])


def to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB to CIELAB, [H, W, 3]: lightness L* in 0..100, a* (red) and b* (yellow)."""
    x = image / 255
    linear = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    xyz = linear @ (RGB_TO_XYZ / WHITE[:, np.newaxis]).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return (root @ XYZ_TO_LAB.T - OFFSET).astype(np.float32)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """CIELAB to sRGB; a colour that sRGB has not is clipped to 0..255."""
    root = (lab + OFFSET) @ np.linalg.inv(XYZ_TO_LAB).T
    xyz = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 3 * (6 / 29) ** 2)
    linear = (xyz @ np.linalg.inv(RGB_TO_XYZ / WHITE[:, np.newaxis]).T).clip(0, 1)
    x = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return (255 * x).astype(np.float32)
