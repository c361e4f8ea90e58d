"""Raw objects of the API server to records. Raises nothing."""
