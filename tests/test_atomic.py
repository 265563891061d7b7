"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError


def test_the_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "mask.nii.gz"
    with atomic(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
        assert temporary.name.endswith(".nii.gz")
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"older")
    with pytest.raises(KeyError), atomic(path) as temporary:
        temporary.write_bytes(b"ha")
        raise KeyError
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "mask.png") as temporary:
        temporary.write_bytes(b"ha")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_the_file_system_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"mask\.png"), atomic(tmp_path / "file" / "mask.png"):
        pass


@pytest.mark.parametrize("below", ["mask.png", "further/mask.png"])
def test_a_file_where_a_folder_is_needed_is_no_lack_of_space(tmp_path, below):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="a file where a folder is needed") as caught,
        atomic(tmp_path / "file" / below),
    ):
        pass
    assert "free space" not in str(caught.value)


def test_a_file_is_flushed_through_a_writable_handle(tmp_path, monkeypatch):
    flushed = []

    def strict(handle):  # as Windows is
        flushed.append(stat.S_ISREG(os.fstat(handle).st_mode))
        if flushed[-1]:
            os.write(handle, b"")

    monkeypatch.setattr(os, "fsync", strict)
    with atomic(tmp_path / "mask.png") as temporary:
        temporary.write_bytes(b"x")
    assert flushed[0]
    assert (tmp_path / "mask.png").read_bytes() == b"x"


def test_an_older_file_is_replaced_with_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic(tmp_path / "mask.png") as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "mask.png").stat().st_mode == plain.stat().st_mode
