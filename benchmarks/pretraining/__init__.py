"""Our pretraining against nanoGPT's own, at equal tokens and by the clock."""
