"""Whose colours a picture has: Gatys et al., "Controlling Perceptual Factors in Neural Style
Transfer" (CVPR 2017), section 5. Images are float32 sRGB, [H, W, 3] in 0..255.

Some rows at a time: in float64, all of a large image would take many times what the image does.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nstlib.images import resize, strips


def prepare(
    colors: str,
    content: np.ndarray,
    styles: list[np.ndarray],
    shares: Sequence[float | np.ndarray] = (1.0,),
) -> tuple[np.ndarray, list[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Content and styles as they are to be used, and what to do to each image that comes of them.

    colors: "style" changes nothing; "palette" gives the content the styles' colours, of each its
    share [a number, or [H, W, 1] of the content's size]; "match" gives the styles the content's;
    "content" transfers style in lightness alone, and gives the result the content's colours.
    """
    if colors == "palette":
        return mixed(content, styles, shares), styles, lambda image: image
    if colors == "match":
        return content, [match(style, content) for style in styles], lambda image: image
    if colors == "style":
        return content, styles, lambda image: image
    lightness = lightness_of(content)

    def alike(style):
        own = lightness_of(style)
        spread = lightness.std() / max(own.std(), 1e-6)
        return grey((own - own.mean()) * spread + lightness.mean())

    def finish(image):
        def tinted(image, photograph):
            lab = to_lab(photograph)
            lab[..., 0] = to_lab(image)[..., 0]
            return from_lab(lab)

        return by_rows(tinted, image, resize(content, *image.shape[:2]))

    return grey(lightness), [alike(style) for style in styles], finish


def mixed(content: np.ndarray, styles: list[np.ndarray], shares) -> np.ndarray:
    """The content with the colours of each style, mixed by their shares; its own where they do not
    add up to 1."""
    pairs = zip(styles, shares, strict=True)
    return content + sum(share * (transport(content, style) - content) for style, share in pairs)


def transport(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The content with the style's mean colour and its covariance, [H, W, 3].

    The linear map of least change: Pitié and Kokaram, "The linear Monge-Kantorovitch linear colour
    mapping for example-based colour transfer" (2007). What is light stays lighter than what is
    dark, so an image can come near both the content and the style's colours.
    """
    # A few grey levels, lest the noise of a photograph without colours become colour.
    floor = 25 * np.eye(3)
    (mean, own), (wanted, other) = statistics(content), statistics(style)
    spread = root(own + floor)
    inverse = np.linalg.inv(spread)
    change = inverse @ root(spread @ (other + floor) @ spread) @ inverse
    return moved(content, mean, change, wanted)


def lightness_of(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] to CIELAB's L*, [H, W]."""
    return by_rows(lambda rows: to_lab(rows)[..., 0], image)


def grey(lightness: np.ndarray) -> np.ndarray:
    """CIELAB's L*, [H, W], to the image without colours, [H, W, 3]."""

    def colourless(rows):
        found = from_lab(np.stack([rows, 0 * rows, 0 * rows], axis=-1))
        return np.repeat(found[..., :1], 3, axis=-1)  # but for float's last digits they are alike

    return by_rows(colourless, lightness)


def match(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The style with the content's mean colour and its covariance (the paper's eq. 10, in the
    symmetric form): colours as they go together, changed linearly."""
    (mean, own), (wanted, other) = statistics(style), statistics(content)
    return moved(style, mean, np.linalg.inv(root(own)) @ root(other), wanted)


def moved(image: np.ndarray, mean: np.ndarray, change: np.ndarray, wanted: np.ndarray):
    """An image whose colours go from one mean to another, [3], and change about it, [3, 3]."""
    return by_rows(lambda rows: ((rows - mean) @ change + wanted).clip(0, 255), image)


def root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance, [3, 3]."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image's mean colour, [3], and the covariance of its colours, [3, 3], with an inverse."""
    number, total, squares = image.shape[0] * image.shape[1], np.zeros(3), np.zeros((3, 3))
    for rows in strips(*image.shape[:2]):
        pixels = image[rows].reshape(-1, 3).astype(np.float64)
        total += pixels.sum(axis=0)
        squares += pixels.T @ pixels
    mean = total / number
    covariance = (squares - number * np.outer(mean, mean)) / (number - 1)
    return mean, covariance + 1e-3 * np.eye(3)


def by_rows(function: Callable[..., np.ndarray], *images: np.ndarray) -> np.ndarray:
    """What a function makes of images of one height and width, pixel by pixel, as float32."""
    height, width = images[0].shape[:2]
    row = function(*(image[:1] for image in images))
    done = np.empty((height, *row.shape[1:]), np.float32)
    for rows in strips(height, width):
        done[rows] = function(*(image[rows] for image in images))
    return done


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
