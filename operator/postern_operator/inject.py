"""A pod and an Injection to the injected pod, or why not; idempotent. Raises Skipped."""
