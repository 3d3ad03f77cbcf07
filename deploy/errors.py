"""What can go wrong in running Plaudit."""


class DeployError(Exception):
    """Something is wrong with how Plaudit is run; the message says what to do."""
