"""How long what is written into run.json may be: what a run writes, the next one must read."""

LONGEST_PROMPT = 10_000  # characters of one that a user gives; CLIP reads 77 tokens, T5 512
LONGEST_TEXT = 100_000  # characters of any text in a report
# Pillow's own limit for "this may be a decompression bomb", stated here because it is refused, not warned of
MAX_PIXELS = 178_956_970
TOO_LARGE = f"is larger than {MAX_PIXELS:,} pixels; make it smaller first"
LARGEST_FILE = 2**31  # bytes of a picture's file: it is read as a whole
