"""Reading and resizing pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import Given, photograph, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recount.data import pictures as images
from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.pictures import load_image, read_picture, resize
from recount.data.prepare import prepare


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB", "1"])
def test_every_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    image = load_image(photograph(tmp_path / f"a.{suffix}", (30, 20), mode))
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8


def test_a_grey_picture_has_three_equal_channels(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", mode="L")
    image = load_image(path)
    assert torch.equal(image[0], image[1])
    assert read_picture(path).grey


def test_the_order_is_red_green_blue(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (200, 100, 50)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[:, 0, 0].tolist() == [200, 100, 50]


def test_a_turned_picture_is_read_as_stored_and_reported(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.image.size == (40, 20)
    assert picture.turned


def test_a_cut_jpeg_is_a_defect_strictly_and_filled_leniently(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", (256, 256))
    whole = np.asarray(read_picture(path).image).astype(int)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.jpg: not a readable picture"):
        read_picture(path)
    picture = read_picture(path, lenient=True)
    assert picture.repaired
    np.testing.assert_array_equal(np.asarray(picture.image)[:32], whole[:32])


def test_lenient_reading_does_not_excuse_what_is_no_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(DataError, match="not a readable picture"):
        read_picture(tmp_path / "a.jpg", lenient=True)


def test_a_lenient_data_set_saves_repaired_pictures_so_that_they_can_be_read_strictly(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", (256, 256))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    dataset = Given([sample(path)])
    dataset.lenient = True  # type: ignore[misc]
    (read,) = read_index(prepare(dataset, "original", tmp_path, tmp_path / "data"))
    assert read.image is not None
    assert load_image(read.image).shape == (3, 256, 256)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="96 x 64 pixels are more than the 100 allowed"):
        read_picture(photograph(tmp_path / "a.png"))


def test_sixteen_bits_per_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        read_picture(tmp_path / "a.png")


@settings(max_examples=40)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]))
def test_any_bytes_give_a_picture_or_one_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "some.jpg"
    path.write_bytes(start + content)
    try:
        assert read_picture(path, lenient=True).image.mode == "RGB"
    except DataError as error:
        assert "some.jpg" in str(error)


def test_opencv_bicubic_has_its_weights() -> None:
    row = np.zeros((1, 9, 3), np.uint8)
    row[0, 4] = 200
    picture = Image.fromarray(np.repeat(row, 9, axis=0))
    values = np.asarray(resize(picture, (18, 9), "bicubic", antialias=False))[4, :, 0]
    # OpenCV's cubic convolution with a = -0.75 at the quarter and three-quarter positions between pixels
    assert values.tolist() == [0] * 7 + [52, 176, 176, 52] + [0] * 7


@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_keeps_a_flat_picture_flat(antialias: bool) -> None:
    flat = Image.new("RGB", (50, 40), (10, 120, 250))
    for resample in ("bicubic", "bilinear"):
        small = np.asarray(resize(flat, (33, 64), resample, antialias=antialias))  # type: ignore[arg-type]
        assert small.shape == (64, 33, 3)
        assert (small == (10, 120, 250)).all()
