"""The HTML report of a batch, and the thumbnails in it."""
