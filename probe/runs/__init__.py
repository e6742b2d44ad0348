"""What a run left, used again: its scorer, its direction, what it found."""
