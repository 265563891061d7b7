"""From files to studies: `discover` finds the cases, `read_study` reads one of them.

Finding is cheap (headers only) and reading is not, so a run over thousands of cases finds them all first and then
reads them one at a time.
"""

from __future__ import annotations

from dataclasses import replace

from cdal_sdk.errors import CdalError, ReadError
from cdal_sdk.readers.case_files import CaseFiles
from cdal_sdk.readers.discovery import discover
from cdal_sdk.readers.isolated import IsolatedReader
from cdal_sdk.study import Study

__all__ = ["CaseFiles", "IsolatedReader", "discover", "read_study"]


def read_study(files: CaseFiles, whole_pixels: int | None = None) -> Study:
    """Read one case that `discover` found.

    Args:
        files: the case and its files.
        whole_pixels: a picture that is larger is refused with a `LargePictureError`, to be read part by part.

    Returns:
        The study; see `Study` for the axes of its image.

    Raises:
        ReadError: the files cannot be read as one image; it names a file (the first of a series) and a remedy.
        MemoryError: as it came, since it says nothing about the files.
    """
    if files.error is not None:
        raise files.error
    try:
        study = _read(files, whole_pixels)
        return replace(study, doubts=(*files.doubts, *study.doubts))
    except ReadError as error:
        raise files.told(error) from error.__cause__
    except (CdalError, MemoryError):
        raise
    except Exception as error:
        # The parsers of damaged files raise anything. Their texts may quote header values, so they stay out.
        what = f"the file is damaged or of an unsupported kind ({type(error).__name__})"
        remedy = "check that it opens in another viewer, or export it again"
        raise files.told(ReadError(what, where=files.paths[0], remedy=remedy)) from error


def _read(files: CaseFiles, whole_pixels: int | None) -> Study:
    # Imported here: pydicom and nibabel take longer to import than most commands need.
    match files.kind:
        case "dicom":
            from cdal_sdk.readers.dicom import read_dicom

            return read_dicom(files.case, files.paths, files.frames)
        case "nifti":
            from cdal_sdk.readers.nifti import read_nifti

            return read_nifti(files.case, files.paths[0], files.volume)
        case "image":
            from cdal_sdk.readers.image import read_image

            return read_image(files.case, files.paths[0], whole_pixels)
        case _:
            raise ReadError("this is not a file that can be segmented", where=files.paths[0])
