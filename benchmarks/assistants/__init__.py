"""Two agents as their authors would write them, and thirty tasks for them."""
