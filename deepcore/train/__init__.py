"""Training: the loop, its callbacks, its metrics, and its progress on the screen."""
