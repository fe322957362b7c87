"""GPT-2's arithmetic in C++ for processors with AVX-512: source, how it is compiled, the runner
that calls it."""
