"""The files of --source: directories and archives, whole, damaged and hostile."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest

from eenet_jax.data import convert_archives, convert_files
from eenet_jax.errors import UserError

CONTENT = {
    "top/marker": b"m",
    "top/train/b/2.png": b"two",
    "top/train/a/1.png": b"one" * 1000,
    "top/train/a/.hidden": b"",
    "top/other/3.png": b"",
}
KINDS = ("directory", "zip", "tar", "tar.gz")


def _make(path, kind: str, content: dict[str, bytes]):
    """Writes a directory or an archive and returns where."""
    path = path / f"source.{kind}"
    if kind == "directory":
        for name, data in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def _open(path, *markers: str):
    scratch = path.parent / "scratch"
    return convert_files.open_source(path, markers or ("marker",), "THE FILES", scratch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "top/"])
def test_files_are_read_from_their_root(tmp_path, kind, prefix):
    content = {k.replace("top/", prefix): v for k, v in CONTENT.items()}
    with _open(_make(tmp_path, kind, content)) as files:
        assert files.below("train") == ["train/a/1.png", "train/b/2.png"]
        assert files.below("absent") == []
        assert files.read("train/a/1.png") == b"one" * 1000
        assert files.read("marker") == b"m" and files.read("other/3.png") == b""
        assert files.has("marker") and not files.has("train")
        with pytest.raises(UserError, match="has no meta; give THE FILES"):
            files.read("meta")
    scratch = tmp_path / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


def test_tar_with_dots_before_names(tmp_path):
    path = _make(tmp_path, "tar", {"./top/marker": b"m"})
    with _open(path) as files:
        assert files.read("marker") == b"m"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_can_mark_the_root(tmp_path, kind):
    with _open(_make(tmp_path, kind, CONTENT), "absent", "train") as files:
        assert files.has("marker")


@pytest.mark.parametrize("kind", KINDS)
def test_no_root_and_several_are_refused(tmp_path, kind):
    path = _make(tmp_path, kind, {"a/train/x": b"", "b/train/x": b""})
    with pytest.raises(UserError, match=f"{kind}' has no x or y; give THE FILES"):
        _open(path, "x", "y").__enter__()
    with pytest.raises(UserError, match="holds a/? and b/?; give one of them"):
        _open(path, "train").__enter__()


def test_absent_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="none' does not exist; give THE FILES"):
        _open(tmp_path / "none").__enter__()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["../out", "top/../../out", "/out", "..\\out"])
def test_names_that_lead_out_are_refused(tmp_path, kind, name):
    path = _make(tmp_path, kind, CONTENT | {name: b"malicious"})
    with pytest.raises(UserError, match="a path that leads out of it; such an archive"):
        _open(path).__enter__()
    assert not (tmp_path.parent / "out").exists()


def test_links_in_a_tar_are_no_files(tmp_path):
    path = _make(tmp_path, "tar", {"marker": b"m"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("train.tsv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with _open(path) as files, pytest.raises(UserError, match="has no train.tsv"):
        files.read("train.tsv")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("keep", [0, 1, 60, 0.5, 0.8])
def test_archives_cut_off_are_refused(tmp_path, kind, keep):
    data = {"marker": b"m", "big": os.urandom(20_000), "last": os.urandom(20_000)}
    path = _make(tmp_path, kind, data)
    size = path.stat().st_size
    os.truncate(path, int(keep * size) if isinstance(keep, float) else keep)
    with pytest.raises(UserError, match=f"source.{kind}'.*(, whole|give THE FILES)$"):
        _open(path).__enter__()


def test_damaged_members_are_refused(tmp_path):
    path = _make(tmp_path, "zip", {"marker": b"m" * 1000})
    damaged = bytearray(path.read_bytes())
    damaged[40:44] = b"\xff" * 4
    path.write_bytes(damaged)
    with _open(path) as files, pytest.raises(UserError, match="marker: .*get it again"):
        files.read("marker")
    with pytest.raises(EOFError, match="ends 3 bytes early"):
        convert_archives.read_span(io.BytesIO(b"12345"), (1, 7))


def test_other_files_are_no_archives(tmp_path):
    (tmp_path / "text").write_text("cat,dog\n" * 100)
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"cat,dog\n" * 100))
    for name in ("text", "text.gz"):
        with pytest.raises(UserError, match="cannot read .*give THE FILES, whole"):
            _open(tmp_path / name).__enter__()
