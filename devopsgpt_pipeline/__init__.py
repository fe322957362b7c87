"""The asset pipeline: from the web to the registry."""
