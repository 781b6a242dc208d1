"""Configuration: schema, loading, checks, description. Imports neither torch, transformers nor ray."""
