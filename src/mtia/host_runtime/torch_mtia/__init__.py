"""PyTorch's side of the host runtime: autoload, the C++ shim, and the few places where stock PyTorch needs a patch."""
