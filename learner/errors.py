"""What can go wrong in the learner for reasons that its user can change."""


class LearnerError(ValueError):
    """Something that the learner was given cannot be used; the message says what and why."""


class DataUnusable(LearnerError):
    """Training text or demonstrations are absent, empty or malformed."""


class ModelUnusable(LearnerError):
    """A model folder is absent, or lacks what training needs (a chat template, an end token)."""


class StateUnusable(LearnerError):
    """Saved training state belongs to other settings than those it is resumed with."""


class Interrupted(Exception):
    """The learner was asked to stop in mid-work; what was saved is taken up by the next start."""


class Overtaken(Exception):
    """Another learner leads now: what this one made is not published."""
