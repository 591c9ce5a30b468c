"""scorebench: a comparative benchmarking suite for score-based generative models."""

__version__ = "0.2.0"
