"""What people look at: the page of a folder, one picture as one file, films.

It reads run.json's records and the states on disk, and knows no network: a finished folder is enough. The
page's own scripts and styles are in `page/`. May import `results`, `machine` and `zoom`.
"""
