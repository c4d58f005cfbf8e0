"""Tables of papers, run again and printed beside the published numbers with a verdict per cell."""
