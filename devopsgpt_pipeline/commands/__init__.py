"""The command line's commands, a file for each group; cli.py gathers them."""
