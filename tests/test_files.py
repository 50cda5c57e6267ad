"""Files are written whole or not at all, on this machine or in a bucket."""

import pathlib
import signal
import subprocess
import sys

import pytest
from buckets import buckets_in

from jaxgen.errors import InputError
from jaxgen.files import append, as_path, is_remote, remove_leftovers, replacing


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with replacing(target) as handle:
        handle.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path, before):
    target = tmp_path / "file"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(TypeError), replacing(target) as handle:
        handle.writelines([b"half", "text"])
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nowhere/x'"),
        replacing(tmp_path / "nowhere" / "x"),
    ):
        pass


def test_local_paths_are_those_of_pathlib(tmp_path):
    for path in (tmp_path, str(tmp_path), "a/b", "c:/d", "e:f", "odd:/name"):
        assert as_path(path) == pathlib.Path(path)
        assert isinstance(as_path(path), pathlib.Path)
        assert not is_remote(as_path(path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("foo://a/b", "foo://a/b, expected a local path, gs:// or s3://, found foo://"),
        ("GS://a/b", "GS://a/b, expected a local path, gs:// or s3://, found GS://"),
        ("gs://", "gs://, expected gs://BUCKET/..."),
        ("s3:///a", "s3:///a, expected s3://BUCKET/..."),
        (pathlib.Path("gs://a/b"), "gs:/a/b, expected gs://a/b, a string rather than a Path"),
        ("gs://a/b", "gs://a/b: gs:// needs the package gcsfs: pip install 'jaxgen[gs]'"),
        ("s3://a/b", "s3://a/b: s3:// needs the package s3fs: pip install 'jaxgen[s3]'"),
    ],
)
def test_what_is_no_path_of_a_bucket_is_refused(path, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)  # not installed
    with pytest.raises(InputError) as error:
        as_path(path)
    assert str(error.value) == message
    with pytest.raises(InputError), replacing(path):
        pass
    assert not list(tmp_path.iterdir())


def test_files_in_buckets_are_written_whole_or_not_at_all(tmp_path):
    with buckets_in(tmp_path):
        target = as_path("s3://bucket/folder/file")
        assert is_remote(target)
        with replacing(target) as handle:
            handle.write(b"old")
            assert not target.exists()
        with pytest.raises(TypeError), replacing(target) as handle:
            handle.writelines([b"half", "text"])
        assert target.read_bytes() == (tmp_path / "bucket/folder/file").read_bytes() == b"old"
        append(target, b" and new")
        append(target.with_name("other"), b"first")
        assert target.read_bytes() == b"old and new"
        assert sorted(p.name for p in target.parent.iterdir()) == ["file", "other"]


KILLED = """
import os, sys
from jaxgen.files import replacing
with replacing(sys.argv[1]) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), 9)
"""


def test_only_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "rows").mkdir()
    ours = [tmp_path / "metrics.json", tmp_path / "rows" / "a.npz"]
    for target in ours:
        target.write_bytes(b"whole")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.tmp"))) == 2
    theirs = [".notes.tmp", "x.0123abcd.jaxgen.tmp", ".x.0123abcd.tmp", ".x.0123abcg.jaxgen.tmp"]
    for name in theirs:
        (tmp_path / name).write_bytes(b"a user's")
    (tmp_path / ".folder.0123abcd.jaxgen.tmp").mkdir()
    remove_leftovers(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    kept = {*theirs, "metrics.json", "rows", "rows/a.npz", ".folder.0123abcd.jaxgen.tmp"}
    assert left == kept
    assert {target.read_bytes() for target in ours} == {b"whole"}
    remove_leftovers(tmp_path / "nowhere")
    with buckets_in(tmp_path):
        remove_leftovers("gs://bucket/run")
