"""Function, Layer, Loss and Net, and what makes them work together: records, gradients, updates."""
