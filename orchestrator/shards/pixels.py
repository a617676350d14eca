"""Pixels: an image file decoded within limits, then resized and cropped to what is classified."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from orchestrator.errors import DataError

MAX_ENCODED_BYTES = 2**28
"""An image file. The largest picture allowed takes 192 MiB as it is, without any compression."""
MAX_PIXELS = 2**26
"""A decoded picture, and a resized one. A small file can claim gigabytes."""
_MAX_SCANS = 1000
# What data sets hold. Every further decoder is one more that strangers' bytes could reach; TIFF and
# GIF alone bring a dozen compressions, and EPS a program to run.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def decode_image(name: str, encoded: bytes) -> Image.Image:
    """The image in RGB; ``name`` is told in errors.

    Raises:
        DataError: the bytes are not an image of a known format, are cut short, or go past a limit.
    """
    if len(encoded) > MAX_ENCODED_BYTES:
        raise DataError(f"{name} has {len(encoded)} bytes, more than the {MAX_ENCODED_BYTES} allowed.")
    try:
        # Pillow warns of sizes that are refused below, and of palettes and tags it can do without.
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
            _check_claims(name, encoded, image)
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a readable image ({type(error).__name__}).") from None


def _check_claims(name: str, encoded: bytes, image: Image.Image) -> None:
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise DataError(f"{name} has {image.width}x{image.height} pixels, more than allowed or none.")
    # A scan of a few bytes visits every pixel of a progressive JPEG; ordinary ones have ten.
    if encoded[:2] == b"\xff\xd8" and encoded.count(b"\xff\xda") > _MAX_SCANS:
        raise DataError(f"{name} is a JPEG of more than {_MAX_SCANS} scans.")


def canonical_pixels(
    image: Image.Image, size: int, crop_fraction: float
) -> UInt8[np.ndarray, "3 size size"]:
    """Resize the shorter side bicubically, crop the centre: the pixels that are classified and attacked.

    Raises:
        DataError: the image is a strip so long that its resized form goes past MAX_PIXELS.
    """
    scale = size / crop_fraction / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > MAX_PIXELS:
        raise DataError(f"An image of {image.width}x{image.height} pixels is too long a strip to resize.")
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
