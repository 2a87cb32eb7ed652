"""deepcore beside torch, JAX, scikit-learn and plain NumPy: `python -m bench.compare`.

rows.py     what is timed, its result in float64, its limit, and the ratio that is aimed at
peers/      how each library does it, a file a library
worker.py   one peer in a process of its own: looks at its result, then times it, a turn at a time
startup.py  what a fresh process costs: import, first call, disk
table.py    the file of results as a table and a picture
scaling.py  time and memory against batch, width, depth and classes
"""
