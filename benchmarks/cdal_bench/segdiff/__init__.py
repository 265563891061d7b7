"""SegDiff (Amit et al., 2021), the baseline with a hundred steps, written from its description."""

from cdal_bench.segdiff.config import SegDiffConfig, linear_betas
from cdal_bench.segdiff.model import SegDiff
from cdal_bench.segdiff.sampler import ancestral, ddim, ddim_steps, sample
from cdal_bench.segdiff.training import training_loss

__all__ = ["SegDiff", "SegDiffConfig", "ancestral", "ddim", "ddim_steps", "linear_betas", "sample", "training_loss"]
