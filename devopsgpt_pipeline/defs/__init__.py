"""One file per step of the chain. An asset reads, calls a plain function, writes, and tells what it
did."""

OWNERS = ["team:devopsgpt"]
