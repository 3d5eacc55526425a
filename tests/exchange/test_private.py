"""No path of a machine goes out, wherever in a file it stands; what only looks like one stays."""

import json
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recount.exchange.private import clean_file, without_paths
from recount.results.files import csv_text

NAMES = st.text(string.ascii_letters + string.digits + "äøé-_+@%", min_size=1, max_size=9).map(lambda n: f"me{n}")
PLACES = ("/home/{}", "/Users/{}", "file:///home/{}", "file://localhost/Users/{}", "//home//{}", "me@host:/home/{}")
BEFORE = st.text(string.ascii_letters + string.digits + " \"'`=,:;|()[]{}<>&?#*!$^\n", max_size=12).filter(
    lambda text: not text or not (text[-1].isalnum())
)
AFTER = (
    st.sampled_from(("", "/", "/x.csv", "/a b/c", "/a/b/c.npz")),
    st.sampled_from(("", "'", '"', ")", "]", ",", " z")),
)
ROOT = Path("/data/lab/pro ject")


@st.composite
def leaks(draw: st.DrawFn) -> tuple[str, str]:
    """Return a user's name, and a text with the user's home, or a path in it, at any place."""
    name = draw(NAMES)
    return name, draw(BEFORE) + draw(st.sampled_from(PLACES)).format(name) + "".join(map(draw, AFTER))


@given(leaks())
def test_no_home_goes_out_at_any_place_of_a_text(leak: tuple[str, str]) -> None:
    name, text = leak
    for everywhere in (True, False):
        short = without_paths(text, ROOT, everywhere=everywhere)
        assert name not in short
        assert without_paths(short, ROOT, everywhere=everywhere) == short


@given(leaks(), st.sampled_from(("json", "csv", "yaml", "html", "md", "txt")))
def test_no_home_goes_out_in_any_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, leak: tuple[str, str], kind: str
) -> None:
    name, text = leak
    path = tmp_path_factory.mktemp("file") / f"a.{kind}"
    written = {
        "json": lambda: json.dumps({"command": ["recount", text], text: [{"a": text}]}),
        "csv": lambda: csv_text(["a", "b"], [[text, text]]),
        "yaml": lambda: yaml.safe_dump({"a": text}, allow_unicode=True, width=10_000),
    }.get(kind, lambda: text)()
    path.write_text(written, encoding="utf-8")
    clean_file(path, ROOT)
    left = path.read_text(encoding="utf-8")
    assert name not in left
    if kind == "json":
        assert name not in str(json.loads(left))


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("--config results=/home/me/x", "--config results=x"),
        ("a=[/x,/y]", "a=[x,y]"),
        ('"~/x"', '"x"'),
        ("checkpoint=/scratch/lab/x.pth", "checkpoint=x.pth"),
        ("PATH=/usr/bin:/home/me/bin", "PATH=bin:bin"),
        ("-I/opt/include", "-Iinclude"),
        (r"C:\Users\John Smith\x.png", "x.png"),
        (r"\\server\share\x.png", "x.png"),
        ("https://example.org/?of=/home/me/x", "https://example.org/?of=x"),
        (f"{ROOT}/results/a.csv: damaged", "results/a.csv: damaged"),
        (f"cd {ROOT}", "cd ."),
    ],
)
def test_an_absolute_path_keeps_its_last_part(text: str, short: str) -> None:
    assert without_paths(text, ROOT) == short


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/b/c.zip",
        '"gdrive:1x/y/z"',
        "ucf_qnrf/test and/or a/b/c",
        "3/4/5 people, 5 km/h",
        "</td></tr>",
        "./here/there/x",
        "hf:owner/name@0123/data/x.csv",
        "images/home/kitchen.jpg",
        "the square/root of 2",
        "results/<suite>/scores.csv",
        "-//W3C//DTD SVG 1.1//EN",
    ],
)
def test_what_only_looks_like_a_path_stays(text: str) -> None:
    assert without_paths(text, ROOT) == text


def test_scripts_styles_and_pictures_in_a_page_stay_and_its_text_is_cleaned(tmp_path: Path) -> None:
    kept = (
        '<script>x.replace(/a/g, "")</script><style>a{font:9px /b}</style><img src="data:image/png;base64,/9j/4A+/x=">'
    )
    path = tmp_path / "index.html"
    path.write_text(f"{kept}<p title='/home/me/a.csv'>/srv/b.csv</p>", encoding="utf-8")
    clean_file(path, ROOT)
    assert path.read_text(encoding="utf-8") == f"{kept}<p title='a.csv'>b.csv</p>"


def test_what_is_no_text_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\0/home/me/x\xff")
    clean_file(path, ROOT)
    assert path.read_bytes() == b"\x89PNG\0/home/me/x\xff"
