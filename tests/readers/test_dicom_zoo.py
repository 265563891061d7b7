"""The answer to each file of a large collection is the one that docs/dicom.md promises.

Write the table anew with: python tests/readers/test_dicom_zoo.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread

from cdal_sdk.errors import CdalError
from cdal_sdk.readers import discover, read_study

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dicom.md"
PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"
MARK = "<!-- table: {} -->"


def answer(path: Path) -> str:
    """What happens to one file, as a row of the table."""
    try:
        (case,) = discover([path])
        study = read_study(case)
    except CdalError as error:
        reason = error.brief().removeprefix(f"{path.name}: ").partition(";")[0]
        return f"refused: {reason}"
    kind = "picture" if study.planar else "volume"
    channels = "RGB" if len(study.image) == 3 else "gray"
    return f"{kind}, {channels}, {' x '.join(map(str, study.grid[:2] if study.planar else study.grid))}"


def rows(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix == ".dcm"]
    return {path.name: f"{encoding(path)} | {answer(path)}" for path in files}


def encoding(path: Path) -> str:
    syntax = dcmread(path, force=True, stop_before_pixels=True).file_meta.get("TransferSyntaxUID")
    return "not told" if syntax is None else re.sub(r" \(.*| Image Compression", "", syntax.name)


def documented(name: str) -> dict[str, str]:
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(MARK.format(name))
    table = re.findall(r"^\| `(.*?)` \| (.*) \|$", rest.partition("<!--")[0], flags=re.MULTILINE)
    return dict(table)


def extra_folder() -> Path:
    data = pytest.importorskip("data_store", reason="the package pydicom-data is not installed")
    return Path(data.__file__).parent / "data"


def test_the_files_of_pydicom():
    pytest.importorskip("gdcm", reason="the extra [dicom] is not installed")
    assert rows(PACKAGED) == documented("pydicom")


def test_the_files_of_pydicom_data():
    pytest.importorskip("gdcm", reason="the extra [dicom] is not installed")
    assert rows(extra_folder()) == documented("pydicom-data")


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, folder in (("pydicom", PACKAGED), ("pydicom-data", extra_folder())):
        table = "\n".join(f"| `{file}` | {row} |" for file, row in rows(folder).items())
        before, mark, rest = text.partition(MARK.format(name))
        after = rest[rest.index("<!-- end -->") :]
        text = f"{before}{mark}\n\n| file | encoding | answer |\n|---|---|---|\n{table}\n\n{after}"
    DOCUMENT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"written: {DOCUMENT.name}\n")
