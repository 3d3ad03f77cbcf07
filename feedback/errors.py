"""The base class of this package's exceptions."""


class FeedbackError(Exception):
    """Base class of the errors of the event log, ids, the view and the ledger."""
