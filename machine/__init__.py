"""The machine a run is on: devices, precision, what is in memory when, batches that fit, seconds by stage.

Imports `errors` only; torch inside functions. Knows components by name and not what they compute.
"""
