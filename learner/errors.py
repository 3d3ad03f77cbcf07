"""Errors of the learner."""


class LearnerError(ValueError):
    """Input of the learner cannot be used; the message says what, why and what to do."""


class DataUnusable(LearnerError):
    """Training text or demonstrations are missing, empty or malformed."""


class ModelUnusable(LearnerError):
    """A model folder is missing or lacks what training needs (a chat template, an end token)."""


class StateUnusable(LearnerError):
    """Saved state cannot be read, or was saved with other settings than it is resumed with."""


class MachinesUnusable(LearnerError):
    """The machines that train together are not described well, are missing, or share no folder."""


class Interrupted(Exception):
    """The learner was asked to stop; the next start resumes from what is saved."""


class LeadershipLost(Exception):
    """Another learner leads now or has published this version; the candidate is not published."""
