"""Models in low precision: `mtia.quantize(model, plan)` turns linear layers to a chosen format, layer by layer."""
