"""Worker processes on this machine or a Ray cluster, which process one file at a time."""
