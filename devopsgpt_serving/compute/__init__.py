"""One step of the model: torch, captured CUDA graphs, C++."""
