"""What a policy's status says. Raises nothing."""
