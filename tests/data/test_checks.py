"""What a reader may give, what is told of it, and what is refused."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import Given, photograph, sample
from PIL import Image

from golden_tools import shared
from recount.data.checks import told
from recount.data.dataset import DataError, Dataset
from recount.data.health import load_npy
from recount.data.index import read_index
from recount.data.pictures import read_picture
from recount.data.prepare import prepare
from recount.data.sample import RawSample
from recount.results.prepared import Summary


class Strange(Dataset):
    """A data set of another package whose reader stumbles."""

    name = "strange"
    title = "A test's"
    licence = "none"
    splits = ("train",)

    def __init__(self, stumble: Callable[[Path], Any]) -> None:
        self.stumble = stumble

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield a sample, then stumble over a file."""
        yield sample(photograph(raw / "a.png"))
        for path in [raw / "points" / "b.csv"]:
            self.stumble(path)


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("stumble", "what"),
    [
        (lambda path: {}["x"], "KeyError: there is no 'x'"),
        (lambda path: [1][len(path.parts)], "IndexError: list index out of range"),
        (lambda path: None + 1, "TypeError: unsupported operand"),
        (lambda path: path.read_text(), "FileNotFoundError"),
        (lambda path: b"\xff".decode(), "UnicodeDecodeError"),
        (lambda path: np.zeros((2, 3)) @ np.zeros((2, 3)), "ValueError: matmul"),
        (lambda path: raise_(RecursionError()), "it is nested too deeply"),
        (lambda path: raise_(MemoryError()), "MemoryError"),
        (lambda path: raise_(ValueError("a\nb\x00")), r"ValueError: a b\x00"),
    ],
)
def test_whatever_a_reader_raises_is_one_line_with_file_place_and_entry(
    stumble: Callable[[Path], Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        list(Strange(stumble).read(tmp_path))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'points' / 'b.csv'}: the reader of strange stumbles here, after sample 'a' (")
    assert "test_checks.py, line " in line
    assert what in line
    assert line.isprintable()


def test_an_interrupt_is_no_defect(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(Strange(lambda path: raise_(KeyboardInterrupt())).read(tmp_path))


class Anything(Given):
    """Yields whatever it was given."""

    def read(self, raw: Path) -> Iterable[RawSample]:
        """Yield it."""
        return self.samples


def test_every_sample_of_a_wrong_kind_is_told_at_once(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    wrong: list[tuple[Any, str]] = [
        ("text", "a str is no RawSample"),
        (sample(picture, id=7), "the id is not safe as a file name"),
        (RawSample("b", "train", picture, [[1, 2]], 1), "points are a list, expected an array of numbers"),  # type: ignore[arg-type]
        (RawSample("c", "train", picture, np.array([["x", "y"]]), 1), "points are a <U1, expected an array of numbers"),
        (RawSample("d", "train", picture, np.zeros((2, 5)), 5), "(2, 5), expected (n, 2); rows and columns seem to be"),
        (RawSample("e", "train", picture, np.array([[math.inf, 0]]), 1), "1 of 1 points are NaN or infinite"),
        (sample(picture, id="f", count="three"), "the count is 'three'; it must be a number"),
        (sample(picture, id="g", count=None), "the count is None; it must be a number"),
        (sample(picture, id="h", attributes={"a": {1}}), "attributes = {'a': {1}}: it cannot be written as text"),
        (sample(picture, id="i", prompt="\ud800"), r"prompt = '\ud800': it cannot be written as text"),
        (sample(picture, id="j", attributes={"lists": 3}), "attributes = {'lists': 3}: it cannot be written"),
        (RawSample("k", "train", str(picture), np.zeros((0, 2)), 0), "the picture is a str; it must be a Path, a"),  # type: ignore[arg-type]
        (RawSample("l", "train", lambda: raise_(OSError("it is gone")), np.zeros((0, 2)), 0), "'l': it is gone"),  # type: ignore[arg-type, return-value]
    ]
    with pytest.raises(DataError) as caught:
        prepare(Anything([each for each, _ in wrong]), "original", tmp_path / "raw", tmp_path / "data")
    title, *lines = str(caught.value).split("\n")
    assert f"{len(wrong)} defects" in title
    for _, what in wrong:
        assert sum(what in line for line in lines) == 1, what


@pytest.mark.parametrize("prompt", ["a\r\nb", "a\u2028b", "a\x85b", "a\x00b", 'a,"b"\n'])
def test_any_text_survives_the_index(prompt: str, tmp_path: Path) -> None:
    given = Given([sample(photograph(tmp_path / "a.png"), prompt=prompt, attributes={"said": prompt})])
    (read,) = read_index(prepare(given, "original", tmp_path, tmp_path / "data"))
    assert (read.prompt, read.attributes["said"]) == (prompt, prompt)


# -------------------------------------------------------------------------------------------------------------- health


def health(tmp_path: Path, *samples: RawSample, accept: str = "", lenient: bool = False) -> str:
    dataset = Given(samples)
    dataset.lenient = lenient  # type: ignore[misc]
    index = prepare(dataset, "original", tmp_path / "raw", tmp_path / "data", accept)
    return "\n".join(told(Summary.read(index.with_name("summary.json"))))


INSIDE = [[float(x), 5.0] for x in range(9)]
OUTSIDE = [[5.0, 90.0], [6.0, 95.0], [7.0, 96.0]]  # inside with x and y exchanged; a picture has 96 x 64 pixels


def test_healthy_data_take_one_line(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    assert health(tmp_path, sample(picture, INSIDE)) == (
        "given/original: 1 samples, 1 pictures, 9 points, 0.00% of them outside their picture"
    )


def test_some_points_outside_are_told(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    assert "1 of 10 points (10.0%) lie outside their picture (a 1): kept" in health(
        tmp_path, sample(picture, [*INSIDE, OUTSIDE[0]])
    )


def test_one_wrong_picture_among_many_is_told(tmp_path: Path) -> None:
    pictures = [photograph(tmp_path / "raw" / f"{k}.png") for k in range(2)]
    lines = health(tmp_path, sample(pictures[0], INSIDE * 50), sample(pictures[1], OUTSIDE))
    assert "more than 20% of the points lie outside the picture in 1" in lines


@pytest.mark.parametrize("split", ["train", "test"])
def test_exchanged_coordinates_stop_unless_somebody_says_why(split: str, tmp_path: Path) -> None:
    pictures = [photograph(tmp_path / "raw" / f"{name}.png") for name in "ab"]
    samples = (sample(pictures[0], INSIDE * 2), sample(pictures[1], OUTSIDE, split=split))
    if split == "train":  # 3 of 21 points
        assert "lie outside" in health(tmp_path, *samples)
        return
    message = r"given, test: 3 of 3 points \(100\.0%\) lie outside .*\(b 3\); with x and y exchanged it would be 0; "
    with pytest.raises(DataError, match=message + r".*config\.yaml: accept: \{given: <the reason>\}"):
        health(tmp_path, *samples)
    assert "accepted, because: drawn so" in health(tmp_path, *samples, accept="drawn so")


def test_what_is_odd_about_pictures_and_counts_is_told(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    cut = photograph(raw / "cut.jpg", (256, 256))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(raw / "turned.jpg", exif=exif)
    Image.new("RGBA", (96, 64), (9, 9, 9, 0)).save(raw / "clear.png")
    grey = photograph(raw / "grey.png", mode="L")
    twice = [[1.0, 1.0], [1.0, 1.0]]
    given = [sample(path, twice) for path in (cut, raw / "turned.jpg", raw / "clear.png")]
    lines = health(tmp_path, *given, sample(grey, twice, count=3), lenient=True)
    for line in (
        "4 points are at the place of another one",
        "1 samples have a count that is not the number of their points",
        "1 pictures lack their end, which is filled with grey: images/cut.png (",
        "1 pictures have an EXIF orientation, which is not applied: images/turned.jpg",
        "1 pictures are transparent, and lie on white: images/clear.png",
        "1 pictures are grey",
    ):
        assert line in lines
    (repaired, *_) = read_index(tmp_path / "data" / "given" / "original" / "index.csv")
    assert 0.3 < repaired.attributes["filled_with_grey"] < 0.6


def test_what_transparent_pixels_hide_is_not_seen() -> None:
    white, black = (
        np.asarray(read_picture(shared("cases") / "alpha_hidden_colour" / f"alpha_hidden_{name}.png").image)
        for name in ("white", "black")
    )
    np.testing.assert_array_equal(white, black)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_every_kind_of_transparency_lies_on_white(mode: str, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (200, 10, 10, 0)).convert(mode)
    clear.save(tmp_path / "a.png", **({"transparency": clear.getpixel((0, 0))} if mode == "P" else {}))
    picture = read_picture(tmp_path / "a.png")
    assert picture.transparent
    assert picture.image.getextrema() == ((255, 255),) * 3


def test_sixteen_bits_in_colour_are_refused_like_those_in_grey(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes(6 * 4) for _ in range(4)))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_declares_more_than_its_bytes_can_hold_is_refused(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.bmp", (8, 8))
    content = bytearray(path.read_bytes())
    content[18:26] = (20_000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"20000 x 20000 pixels are more than its \d+ bytes can hold"):
        read_picture(path)


def test_an_array_that_declares_more_than_its_bytes_is_not_allocated(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(3, 2), }        ", b"(3, 200000000000)")[: len(content)])
    with pytest.raises(DataError, match=r"a\.npy: is not a readable \.npy file"):
        load_npy(tmp_path / "a.npy")
