"""Functions with weights, and those that move and shape arrays; one family a file."""
