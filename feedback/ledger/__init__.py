"""The ledger: every record of the log exactly once, joined for training."""
