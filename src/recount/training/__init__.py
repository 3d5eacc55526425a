"""The training loop, optimisers, schedules, checkpoints."""
