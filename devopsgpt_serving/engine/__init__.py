"""Many requests, one model: admission, batching, sampling, text; vLLM as the other engine."""
