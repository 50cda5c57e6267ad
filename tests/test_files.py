"""Files are written whole or not at all."""

import pytest

from jaxgen.files import replacing


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
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing(tmp_path / "nowhere" / "x"):
        pass
