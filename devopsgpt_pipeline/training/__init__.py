"""From token bins and settings to a training job, and how it is launched."""
