"""The service: pulls the registry's current model and answers over HTTP. Never trains, knows no
pipeline."""
