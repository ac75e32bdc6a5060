"""What is on the user's disk: pictures found and read, the output tree written, run.json and prompts.csv.

Knows no model, and of the method only what its records hold.
"""

import warnings

# What Pillow warns of is either fine or raises where it matters. For the whole process: a filter that is put
# back after each reading is no thread's own.
warnings.filterwarnings("ignore", module=r"PIL\.")
