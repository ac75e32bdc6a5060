"""The machine a run is on: devices, precision, what is in memory when, batches that fit, seconds, signals,
work that overlaps with the models.

Imports no folder of this project, and torch inside functions only. Knows components by name and not what
they compute.
"""
