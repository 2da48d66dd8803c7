"""Architectures of transformers, tiny and with random weights, compiled for the device and held to the CPU."""
