"""Jobs: from a file to a checked, running set of processes."""
