"""Segmenting: one case, a stream of cases, or a whole folder with a report."""

from cdal_sdk.segmenter.batch import segment_cases
from cdal_sdk.segmenter.predictor import Segmenter
from cdal_sdk.segmenter.report import CaseReport, Report
from cdal_sdk.segmenter.result import Format, Result, Timing, check_formats, check_read_timeout

__all__ = [
    "CaseReport",
    "Format",
    "Report",
    "Result",
    "Segmenter",
    "Timing",
    "check_formats",
    "check_read_timeout",
    "segment_cases",
]
