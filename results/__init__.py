"""What is on the user's disk: pictures found and read, the output tree written, run.json and prompts.csv.

Knows no model, and of the method only what its records hold.
"""
