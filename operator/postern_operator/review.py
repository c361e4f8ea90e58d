"""One AdmissionReview, bytes to bytes: decides, and never fails a pod that it should not touch. Raises NotAReview."""
