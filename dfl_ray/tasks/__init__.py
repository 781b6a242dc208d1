"""Tasks: where rows come from. Sources import nothing heavy until they are asked."""
