"""Tests of the pipeline: real servers on the loopback, real files, no patched clients."""
