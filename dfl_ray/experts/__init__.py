"""Implicit mixture-of-experts: a device answers with all experts it holds, with no trained router."""
