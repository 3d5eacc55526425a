"""The base of all errors that are meant for people."""


class UserError(Exception):
    """Something is wrong that the user can mend; commands print the message as it is, without a traceback."""
