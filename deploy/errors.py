"""The errors of deploying and operating Plaudit."""


class DeployError(Exception):
    """A problem that the user can solve; the message says how."""
