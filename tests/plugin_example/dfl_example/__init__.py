"""What the recipes of docs/extending.md make, as a package."""
