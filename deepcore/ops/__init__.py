"""Array maths, one family a file: for each op a reference in the array API standard alone.

A library's own version of an op stands in `backends/<library>/<family>.py` under the same name.
"""
