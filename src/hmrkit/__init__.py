"""hmrkit: train, evaluate and run human mesh recovery methods from one toolkit."""

__version__ = "0.1.0"
