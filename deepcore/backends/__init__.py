"""The only place that names an array library."""
