"""GPT-2 itself: network, tokenizer, token bins, checkpoints, training, evaluation, sampling.

Knows no Dagster, no HTTP and no registry: a bare GPU machine needs only this package.
"""
