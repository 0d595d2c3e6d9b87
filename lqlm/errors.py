"""The one exception that a person is meant to read."""


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and how to mend it.

    Commands print it as ``error: ...`` and exit with status 2; a caller of the library catches it like any other
    exception.  Everything else that escapes is a defect of lqlm.
    """
