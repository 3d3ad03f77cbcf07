"""`plaudit doctor`, `status` and `watch`."""
