"""What Inductor asks about the accelerator's build."""

from __future__ import annotations


def build_codename() -> str:
    """The architecture name of Triton's target: one compiled program serves every generation."""
    return "mtia"
