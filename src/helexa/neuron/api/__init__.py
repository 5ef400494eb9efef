"""What a daemon answers, one file per surface."""
