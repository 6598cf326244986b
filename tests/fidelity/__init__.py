"""The fidelity matrix: clips with one awkward property each, what is compared, and how it is written down."""
