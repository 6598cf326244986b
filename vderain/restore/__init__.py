"""The stages that remove rain from frames; `vderain.pipeline` runs them in order."""
