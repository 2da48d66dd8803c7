"""The `torch.backends` entry point: `import torch` calls `register` at its very end."""


def register() -> None:
    """Placeholder until the device registers itself here; must never raise (it would break `import torch`)."""
