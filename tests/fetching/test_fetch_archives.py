"""Archives: unpacked once, whole or not at all, and never outside their folder."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from fetch_tools import dataset, sha256
from hypothesis import given
from hypothesis import strategies as st

from recount.data.dataset import DataError, RemoteFile
from recount.fetching import archives
from recount.fetching.archives import ArchiveError, unpack, unpacked_folder
from recount.fetching.fetch import fetch

DIGEST = "0" * 64
FILES = {"images/a.jpg": b"picture", "points/a.csv": b"1,2\n"}


def a_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def a_tar(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in special:
            archive.addfile(info)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".unpacked.json"
    }


@pytest.mark.parametrize(
    ("name", "folder"), [("a.zip", "a"), ("a.b.tar.gz", "a.b"), ("a.tgz", "a"), ("A.TAR", "A"), ("x/y.tar.xz", "x/y")]
)
def test_folder_is_the_path_without_its_suffix(name: str, folder: str) -> None:
    assert unpacked_folder(Path(name)) == Path(folder)


@pytest.mark.parametrize("name", ["a.rar", "a", ".zip"])
def test_other_kinds_are_refused_with_the_kinds_there_are(name: str) -> None:
    with pytest.raises(ArchiveError, match=r"\.tar\.gz, .*\.zip"):
        unpacked_folder(Path(name))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz"])
def test_archive_is_unpacked_beside_itself(tmp_path: Path, name: str) -> None:
    archive = (a_zip if name.endswith("zip") else a_tar)(tmp_path / name, FILES)
    assert unpack(archive, DIGEST) == tmp_path / "a"
    assert contents(tmp_path / "a") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", name]


def test_same_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", FILES)
    unpack(archive, DIGEST)
    archive.write_bytes(b"no longer an archive")
    unpack(archive, DIGEST)
    assert contents(tmp_path / "a") == FILES


def test_folder_that_lost_a_file_is_unpacked_again(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", FILES)
    unpack(archive, DIGEST)
    (tmp_path / "a" / "images" / "a.jpg").unlink()
    unpack(archive, DIGEST)
    assert contents(tmp_path / "a") == FILES


def test_new_version_of_the_archive_replaces_the_folder(tmp_path: Path) -> None:
    unpack(a_zip(tmp_path / "a.zip", FILES), DIGEST)
    unpack(a_zip(tmp_path / "a.zip", {"new.txt": b"new"}), "1" * 64)
    assert contents(tmp_path / "a") == {"new.txt": b"new"}


def test_a_users_own_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").write_text("mine")
    with pytest.raises(ArchiveError, match="move it away"):
        unpack(a_zip(tmp_path / "a.zip", FILES), DIGEST)
    assert (tmp_path / "a" / "precious.txt").read_text() == "mine"


OUTSIDE = ["../evil.txt", "/tmp/evil.txt", "images/../../evil.txt", "..\\evil.txt", "C:\\evil.txt", "\\evil.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_member_that_would_land_outside_is_refused_by_name(tmp_path: Path, make: object, name: str) -> None:
    archive = tmp_path / "in" / ("a.zip" if make is a_zip else "a.tar")
    archive.parent.mkdir()
    make(archive, FILES | {name: b"evil"})  # type: ignore[operator]
    with pytest.raises(ArchiveError, match=r"evil.txt.*would land outside"):
        unpack(archive, DIGEST)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", archive.name]


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "b", "", "...", "a..", "\\", "/"]), min_size=1, max_size=6))
def test_no_name_leaves_the_folder(parts: list[str]) -> None:
    try:
        safe = archives._safe_name("/".join(parts), Path("a.zip"))
    except ArchiveError:
        return
    folder = Path("/folder")
    assert (folder / safe).resolve().is_relative_to(folder)


LINKS = [
    special("images/link", tarfile.SYMTYPE, "../../outside"),
    special("images/link", tarfile.SYMTYPE, "/etc/passwd"),
    special("images/link", tarfile.SYMTYPE, "../points"),
    special("images/link", tarfile.LNKTYPE, "/etc/passwd"),
    special("images/link", tarfile.LNKTYPE, "../outside"),
    special("images/link", tarfile.SYMTYPE, "link"),
    special("images/link", tarfile.CHRTYPE),
    special("images/link", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("member", LINKS)
def test_link_that_points_out_and_device_are_refused_by_name(tmp_path: Path, member: tarfile.TarInfo) -> None:
    (tmp_path / "outside").write_text("secret")
    archive = a_tar(tmp_path / "a.tar", FILES, member)
    with pytest.raises(ArchiveError, match=r"'images/link' is a .*the archive is refused"):
        unpack(archive, DIGEST)
    assert not (tmp_path / "a").exists()


def test_file_written_through_a_link_is_refused(tmp_path: Path) -> None:
    archive = a_tar(tmp_path / "a.tar", {}, special("way", tarfile.SYMTYPE, str(tmp_path)))
    with tarfile.open(archive, "a") as opened:
        opened.addfile(special("way/evil.txt", tarfile.REGTYPE))
    with pytest.raises(ArchiveError, match="'way' is a link"):
        unpack(archive, DIGEST)
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize(("kind", "target"), [(tarfile.SYMTYPE, "a.jpg"), (tarfile.LNKTYPE, "images/a.jpg")])
def test_link_within_the_archive_becomes_a_copy(tmp_path: Path, kind: bytes, target: str) -> None:
    archive = a_tar(tmp_path / "a.tgz", FILES, special("images/b.jpg", kind, target))
    unpack(archive, DIGEST)
    assert (tmp_path / "a" / "images" / "b.jpg").read_bytes() == b"picture"
    assert not (tmp_path / "a" / "images" / "b.jpg").is_symlink()


def test_link_of_a_zip_that_points_out_is_refused_by_name(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'link' is a link to '/etc/passwd'"):
        unpack(tmp_path / "a.zip", DIGEST)


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
@pytest.mark.parametrize("parts", [1, 4])  # each within the limit, and all together beyond it
def test_decompression_bomb_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parts: int
) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 2**20)
    make = a_zip if name.endswith("zip") else a_tar
    archive = make(tmp_path / name, {f"zeros{part}": bytes(2**21 // parts) for part in range(parts)})
    with pytest.raises(ArchiveError, match=r"at member .*decompression bomb"):  # the rest is not even listed
        unpack(archive, DIGEST)
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_links_that_would_copy_a_file_over_and_over_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 2**20)
    links = [special(f"link{number}", tarfile.SYMTYPE, "zeros") for number in range(9)]
    with pytest.raises(ArchiveError, match="decompression bomb"):
        unpack(a_tar(tmp_path / "a.tgz", {"zeros": bytes(2**17)}, *links), DIGEST)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tgz"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_would_fill_the_memory_are_refused(tmp_path: Path, kind: int) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("n" * 2**21))
    with pytest.raises(ArchiveError, match=r"a header of 2,09\d,\d+ bytes, more than the 1,048,576 allowed"):
        unpack(tmp_path / "a.tar.gz", DIGEST)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 9)
    with pytest.raises(ArchiveError, match="more than"):
        unpack(a_tar(tmp_path / "a.tar", {f"{n}": b"" for n in range(10)}), DIGEST)


def test_disk_too_small_for_the_contents_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 5, 5))
    with pytest.raises(ArchiveError, match="unpacks to 11 bytes, but only 5 are free"):
        unpack(a_zip(tmp_path / "a.zip", FILES), DIGEST)


def test_split_zip_says_how_to_join_it(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", FILES)
    data = bytearray(archive.read_bytes())
    data[data.rfind(b"PK\x05\x06") + 4] = 3
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"split archive .*zip -s 0 a\.zip"):
        unpack(archive, DIGEST)


def test_encrypted_member_is_named(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", {"secret.txt": b"x"})
    data = bytearray(archive.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"'secret.txt' is encrypted"):
        unpack(archive, DIGEST)


def test_unpacking_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(a_zip(tmp_path / "a.zip", FILES), DIGEST, check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar"])
def test_broken_archive_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    archive = (a_zip if name.endswith("zip") else a_tar)(tmp_path / name, {"a": bytes(range(256)) * 99})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(ArchiveError, match="is broken or of an unknown kind"):
        unpack(archive, DIGEST)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_flipped_bit_in_a_zip_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        opened.writestr("a", b"picture")
    archive.write_bytes(archive.read_bytes().replace(b"picture", b"pictore"))
    with pytest.raises(ArchiveError, match="Bad CRC-32"):
        unpack(archive, DIGEST)


def test_name_that_is_file_and_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="both a file and a folder"):
        unpack(a_tar(tmp_path / "a.tar", {"a": b"", "a/b": b""}), DIGEST)


def test_permissions_of_the_archive_do_not_reach_the_disk(tmp_path: Path) -> None:
    info = special("run", tarfile.REGTYPE)
    info.mode, info.uid = 0o7777, 12345
    unpack(a_tar(tmp_path / "a.tar", {}, info), DIGEST)
    made = (tmp_path / "a" / "run").stat()
    assert not made.st_mode & (stat.S_ISUID | stat.S_IXUSR)
    assert made.st_uid != 12345


def test_fetch_unpacks_what_the_data_set_says(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    archive = a_zip(tmp_path / "mirror" / "toy" / "a.zip", FILES)
    file = RemoteFile("a.zip", (), sha256(archive.read_bytes()), unpack=True)
    fetch(dataset(file), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert contents(tmp_path / "raw" / "toy" / "a") == FILES


def test_fetch_names_an_archive_that_would_escape_and_moves_it_aside(tmp_path: Path) -> None:
    (tmp_path / "raw" / "toy").mkdir(parents=True)
    a_zip(tmp_path / "raw" / "toy" / "a.zip", {"../evil.txt": b""})
    with pytest.raises(DataError, match=r"cannot be unpacked: a.zip: member '\.\./evil.txt' would land outside"):
        fetch(dataset(RemoteFile("a.zip", unpack=True)), tmp_path / "raw")
    assert sorted(path.name for path in (tmp_path / "raw" / "toy").iterdir()) == ["a.zip.rejected"]


@pytest.mark.parametrize("more", [{}, {"__MACOSX/._a": b"", "__MACOSX/a/._b": b""}])
def test_folder_of_the_archives_own_name_is_not_doubled(tmp_path: Path, more: dict[str, bytes]) -> None:
    unpack(a_zip(tmp_path / "a.zip", {"a/x.txt": b"x", "a/b/y.txt": b"y"} | more), DIGEST)
    assert contents(tmp_path / "a") == {"x.txt": b"x", "b/y.txt": b"y"} | more


@pytest.mark.parametrize("files", [{"a/x.txt": b"x", "y.txt": b"y"}, {"a": b"a file"}])
def test_folder_that_does_not_hold_all_stays(tmp_path: Path, files: dict[str, bytes]) -> None:
    unpack(a_zip(tmp_path / "a.zip", files), DIGEST)
    assert contents(tmp_path / "a") == files


@pytest.mark.parametrize("kept", [512, 1024, 1500, 2048])
def test_tar_that_ends_between_or_within_members_is_cut_off(tmp_path: Path, kept: int) -> None:
    archive = a_tar(tmp_path / "a.tar", {"a": bytes(512), "b": bytes(512)})
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(ArchiveError, match=r"a.tar is broken"):
        unpack(archive, DIGEST)


def test_compressed_tar_without_the_end_of_its_compression_is_cut_off(tmp_path: Path) -> None:
    archive = a_tar(tmp_path / "a.tgz", {"a": b"x"})
    archive.write_bytes(archive.read_bytes()[:-4])
    with pytest.raises(ArchiveError, match=r"a.tgz is broken"):
        unpack(archive, DIGEST)


def test_disk_too_small_costs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    archive = a_zip(tmp_path / "mirror" / "toy" / "a.zip", FILES)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10, 5, 5))
        with pytest.raises(DataError, match="only 5 are free"):
            fetch(dataset(RemoteFile("a.zip", unpack=True)), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert (tmp_path / "raw" / "toy" / "a.zip.part").read_bytes() == archive.read_bytes()
    fetch(dataset(RemoteFile("a.zip", unpack=True)), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert contents(tmp_path / "raw" / "toy" / "a") == FILES
