"""Files that hold models: found here or on the hub, their headers read, compared, identified by content.

Imports `errors` only, and never torch: a wrong file is named before anything heavy is imported.
"""
