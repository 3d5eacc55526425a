"""What trained models say: predictions and prompt tests."""
