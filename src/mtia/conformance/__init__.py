"""PyTorch's own operator tests, run on the device: which operators pass, dtype by dtype, with no help from the host."""
