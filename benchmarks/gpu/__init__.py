"""All that is to be seen on a GPU, in one bounded command; on a CPU its smallest sizes."""
