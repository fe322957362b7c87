"""OpenAI's routes, with vLLM's fields: completions, chat, the model list, and tokens of a text."""
