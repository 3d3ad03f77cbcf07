"""What `plaudit doctor`, `status` and `watch` find out about an installation."""
