"""What a net looks like and how it is doing: its summary, one pass explained, common faults."""
