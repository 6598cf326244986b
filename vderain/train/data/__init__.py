"""Training data: rendered and real rain, cut into windows and crops."""
