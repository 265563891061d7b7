"""The generator network, ours and the published one: one class for both."""

from cdal_sdk.network.config import GeneratorConfig
from cdal_sdk.network.generator import Generator, Steering
from cdal_sdk.network.published import load_published

__all__ = ["Generator", "GeneratorConfig", "Steering", "load_published"]
