"""The root of this package's exceptions."""


class FeedbackError(Exception):
    """Something is wrong with feedback: its log, its ids, its view or its ledger."""
