"""The diffusion: schedule, posterior, noise and the sampler."""

from cdal_sdk.diffusion.noise import SamplerNoise, draw_noise
from cdal_sdk.diffusion.sampler import Denoiser, VoteStatistics, sample, vote_statistics
from cdal_sdk.diffusion.sampling import Sampling
from cdal_sdk.diffusion.schedule import Schedule, paper_betas, published_betas

__all__ = [
    "Denoiser",
    "SamplerNoise",
    "Sampling",
    "Schedule",
    "VoteStatistics",
    "draw_noise",
    "paper_betas",
    "published_betas",
    "sample",
    "vote_statistics",
]
