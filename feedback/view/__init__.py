"""The view: feedback events as the API reads them back."""
