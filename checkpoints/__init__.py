"""Files that hold models: found here or on the hub, their headers read, compared, identified by content.

Imports neither torch nor any folder of this project: a wrong file is named before anything heavy is
imported.
"""
