"""openMTIA: PyTorch's `mtia` device on simulated silicon."""

__version__ = "0.1.0"
