"""Which policy wins a pod. Raises nothing."""
