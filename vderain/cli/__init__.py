"""One module for each command: flags enter, what was done is said."""
