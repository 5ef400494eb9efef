"""What others are measured with."""
