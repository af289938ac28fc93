"""The state that workers and replicas share, in Redis."""
