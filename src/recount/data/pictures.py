"""Reading, resizing and saving pictures; every error names the file.

Decisions:
* Pixels are taken as stored: an EXIF orientation is counted and not applied. The annotations of the crowd sets were
  made with MATLAB, which ignores it, and lie in stored pixels. (OpenCV, which some scripts read with, applies it.)
* Grey, palette and CMYK pictures become RGB; transparent ones are laid on white, so that what they hide is not counted
  (Pillow's own conversion, which the papers' codes use, would show it). More than 8 bits per channel is a defect.
* A JPEG whose end is missing is a defect, unless the caller reads leniently (UCF-QNRF): then the missing part is grey,
  and ``Picture.lost`` says how much that is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from recount.data.dataset import DataError, reason
from recount.data.health import checked

if TYPE_CHECKING:
    from torch import Tensor

# The largest picture of the data sets here has 19,044 x 28,448 pixels (NWPU-Crowd). Pillow refuses at twice this.
MAX_PIXELS = 600_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_PIXELS_PER_BYTE = 10_000  # of a file; deflate packs no more than 8,256 black and white pixels into a byte
_GREY = 128  # in all channels

_ORIENTATION = 0x0112
_JPEG_END = b"\xff\xd9"
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    image: Image.Image  # RGB
    grey: bool = False  # whether it is stored with one channel
    turned: bool = False  # whether it has an EXIF orientation other than upright (not applied)
    transparent: bool = False  # whether some of it is transparent, and lies on white now
    repaired: bool = False  # whether its end is missing and was filled
    lost: float = 0.0  # the share of its rows that were filled with grey
    sha256: str = ""  # of the file


def read_picture(path: Path, *, lenient: bool = False, sha256: str = "") -> Picture:
    """Return the picture at ``path``, else a ``DataError``; ``lenient`` fills the missing end of a JPEG with grey.

    ``sha256`` is what a prepared data set says of the file ("": it is none's).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"{path}: {'no such file' if missing else f'cannot be read: {error.strerror}'}") from None
    digest = checked(path, content, sha256)
    if not content:
        raise DataError(f"{path}: the file is empty (0 bytes); fetch it again")
    try:
        return replace(_decode(content, path), sha256=digest)
    except DataError:
        if not lenient or not content.startswith(b"\xff\xd8"):
            raise
    picture = _decode(content + _JPEG_END, path)
    return replace(picture, repaired=True, lost=_filled(picture.image), sha256=digest)


def _decode(content: bytes, path: str | Path) -> Picture:
    try:
        with Image.open(io.BytesIO(content)) as image:
            size = f"{image.width} x {image.height} pixels"
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {size} are more than the {MAX_PIXELS:,} allowed")
            if image.width * image.height > len(content) * _PIXELS_PER_BYTE:
                raise DataError(f"{path}: {size} are more than its {len(content):,} bytes can hold; fetch it again")
            if image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in image.tile):
                raise DataError(f"{path}: mode {image.mode} has more than 8 bits per channel; convert it to 8-bit RGB")
            image.load()
            turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            rgb, transparent = _on_white(image)
            return Picture(rgb, image.mode in ("1", "L", "LA"), turned, transparent)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders stumble over damaged files in many ways, which all mean the same
        what = reason(error).replace("<_io.BytesIO object at ", "<") or type(error).__name__
        raise DataError(f"{path}: not a readable picture ({len(content):,} bytes): {what}") from error


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return a picture as RGB, and whether some of it was transparent."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB"), False
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB"), bool((np.asarray(layer.getchannel("A")) < 255).any())


def _filled(image: Image.Image) -> float:
    """Return the share of rows, from the lowest up, that are the grey that libjpeg puts in the place of lost ones."""
    seen = np.flatnonzero((np.asarray(image) != _GREY).any(axis=(1, 2)))  # rows
    return 1 - (int(seen[-1]) + 1 if len(seen) else 0) / image.height


def decoded(content: bytes, where: str | Path = "a picture in an archive") -> Image.Image:
    """Return the picture in ``content``, RGB, as archives of encoded pictures hold it; errors: ``read_picture``."""
    return _decode(content, where).image


def load_image(path: Path, sha256: str = "") -> Tensor:
    """Return the picture at ``path`` as uint8 [3, H, W] RGB; ``sha256`` and errors are those of ``read_picture``."""
    import torch

    return torch.from_numpy(_planes(read_picture(path, sha256=sha256).image.split()))


def _planes(channels: Iterable[Image.Image]) -> np.ndarray:
    """Return pixels [C, H, W] of grey pictures, far faster than an array [H, W, C] is made and turned."""
    return np.stack([np.asarray(channel) for channel in channels])


def resize(
    image: Image.Image, size: tuple[int, int], resample: Literal["bicubic", "bilinear"], *, antialias: bool
) -> Image.Image:
    """Return ``image`` at ``size`` (width, height).

    Without antialiasing the filter is OpenCV's (bicubic with a = -0.75; measured on photographs against
    opencv-python-headless: at most 1 of 255 apart), with it Pillow's and MATLAB's (a = -0.5).
    """
    if image.size == size:
        return image
    if antialias:
        return image.resize(size, _FILTERS[resample])
    import torch
    from torch.nn.functional import interpolate

    channels = []
    for channel in image.split():  # one at a time: the largest pictures take 2 GB per channel in float32
        grey = torch.from_numpy(np.array(channel)).float()[None, None]  # (1, 1, H, W)
        scaled = interpolate(grey, size=(size[1], size[0]), mode=resample, align_corners=False)
        channels.append(Image.fromarray(scaled[0, 0].round().clamp(0, 255).byte().numpy()))
    return Image.merge("RGB", channels)


def resize_like_opencv(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a picture, float [3, H, W] in [0, 1], at ``size`` (height, width): bilinear, no antialiasing, 8 bits."""
    from torch.nn.functional import interpolate

    if tuple(image.shape[-2:]) == size:
        return image
    scaled = interpolate(image[None], size, mode="bilinear", align_corners=False)[0]  # (3, height, width)
    return (scaled * 255).round().clamp(0, 255) / 255


def resize_like_pillow(image: Tensor, size: tuple[int, int], resample: Literal["bicubic", "bilinear"]) -> Tensor:
    """Return a picture [3, H, W], uint8 or float in [0, 1], at ``size`` (height, width) by Pillow, with its 8 bits."""
    import torch

    if tuple(image.shape[-2:]) == size:
        return image
    whole = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).byte()
    channels = (Image.fromarray(channel) for channel in whole.cpu().numpy())
    pixels = torch.from_numpy(_planes(channel.resize(size[::-1], _FILTERS[resample]) for channel in channels))
    return pixels if image.dtype == torch.uint8 else pixels.to(image) / 255


def save(image: Image.Image, path: Path, encoding: Literal["png", "jpeg75", "jpeg95"]) -> str:
    """Write ``image`` and return the file's SHA-256.

    "jpeg95" is as OpenCV writes by default (measured: the same pixels), "jpeg75" as Pillow and MATLAB do.
    """
    stream = io.BytesIO()
    if encoding == "png":
        image.save(stream, format="PNG", compress_level=4)
    else:
        image.save(stream, format="JPEG", quality=int(encoding.removeprefix("jpeg")), subsampling="4:2:0")
    path.write_bytes(stream.getbuffer())
    return hashlib.sha256(stream.getbuffer()).hexdigest()
