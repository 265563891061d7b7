"""The SegDiff baseline, latency and accuracy benchmarks, and their reports."""
