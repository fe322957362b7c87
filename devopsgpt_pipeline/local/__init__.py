"""`devopsgpt run` and `up`: servers as child processes, one walk over the chain, its progress."""
