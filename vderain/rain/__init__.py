"""Renders synthetic rain onto clear frames: streaks, haze, and raindrops on a windshield."""
