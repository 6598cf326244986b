"""vderain: rain goes, everything else stays."""

__version__ = "0.1.0"
