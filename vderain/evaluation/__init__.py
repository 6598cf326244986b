"""Measuring what was done to a clip: clips enter, numbers and a contact sheet leave."""
