"""What ``moshgrid bench`` measures on a user's own computer."""
