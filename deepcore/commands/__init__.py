"""What the commands of `python -m deepcore` do, a file each; the command line itself only reads arguments."""
