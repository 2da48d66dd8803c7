"""The host runtime: which chip `device="mtia"` is, its memory, simulated clock, streams, graphs and launches."""
