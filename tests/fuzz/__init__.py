"""Damaged files for every reader: 25 cases each in the tests, any number with ``make fuzz N=20000``."""
