"""The training loop and what keeps it alive: steps, state, saving, ranks, reports."""
