"""The Hugging Face hub: models and dataset shards, fetched with their hashes checked."""
