"""Operators as a chip would run them, timed without a device: which kernels, launched how, on which shapes.

Each module takes a described problem (a matrix multiplication, an attention call, a collective) and a ChipSpec, traces
the real Triton kernels on addresses and gives a `Prediction`. Nothing here holds a constant of an operator's.
"""
