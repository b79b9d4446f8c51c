"""Tasks that a job makes for itself, before anything of it starts: one file each, found by its name.

A file offers `Options` and `prepare(folder, options, seed)`, which fills an empty folder with what
the job names by paths that begin with `prepared/`, such as a model and its prompts.
"""
