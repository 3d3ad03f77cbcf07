"""The HTTP layer: access control, middleware and routes."""
