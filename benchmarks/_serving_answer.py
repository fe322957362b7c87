"""What every engine of benchmarks/serving.py is asked for, however it works."""

from collections.abc import Callable

MOST_SEQUENCES = 32
Answer = Callable[[list[list[int]], int], tuple[list[int], float]]
"""(prompts, new tokens of each) -> (tokens made for each prompt, seconds until every prompt had its
first)"""
