"""The kinds of error that a person is told about, in one line and without a traceback."""


class TroupeError(Exception):
    """A fault at run time: something that was right stopped being so. Exit code 1."""

    exit_code = 1


class FatalError(TroupeError):
    """A fault that starting a worker again would only repeat: it ends the run at once."""


class UserError(TroupeError):
    """A mistake in what was asked for: names the key or file, the value and the remedy. Exit code 2."""

    exit_code = 2
