"""What others published of OpenAI's GPT-2, under the names that our own values have in MLflow."""

# whose losses were published, by nanoGPT's protocol of random batches
PROTOCOL_DATASET = "openwebtext"

# Train and val loss on OpenWebText in nats/token, by that protocol. source: nanoGPT's README,
# "baselines"
LOSSES = {
    "gpt2": (3.11, 3.12),
    "gpt2-medium": (2.85, 2.84),
    "gpt2-large": (2.66, 2.67),
    "gpt2-xl": (2.56, 2.54),
}

# source: the harness's own results for gpt2 but for word_perplexity, which is Hugging Face's, by
# transformers
BENCHMARKS = {
    "gpt2": {
        "acc/lambada_openai": 0.3256,
        "perplexity/lambada_openai": 40.06,
        "word_perplexity/wikitext": 37.37,
        "acc_norm/hellaswag": 0.3114,
    }
}


def published_metrics(size: str) -> dict[str, float]:
    """Everything that was published of a size of GPT-2, as metrics; empty for another model."""
    by_protocol = (
        {f"nanogpt_val_loss/{PROTOCOL_DATASET}": LOSSES[size][1]} if size in LOSSES else {}
    )
    return by_protocol | BENCHMARKS.get(size, {})
