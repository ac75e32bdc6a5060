"""What is on the user's disk: pictures found and read, the output tree written, run.json and prompts.csv.

Imports `errors`, `checkpoints.hashing`, `machine.stage_times` and Pillow. Knows no model, and of the method
only what its records hold.
"""
