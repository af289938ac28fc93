"""The configuration: models, loading with file:line:column errors, JSON Schema."""
