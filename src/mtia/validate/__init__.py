"""Predictions beside measured silicon: any folder of measurements in the columns of the public ones (`mtia validate`).

`rows` reads, `predict` dispatches to `mtia.workloads`, `run` does so over processes, `rooflines` is the competition,
`statistics` and `tables` say how far off each is. Nothing here changes a prediction.
"""
