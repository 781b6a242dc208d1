"""Low-rank adapters of many devices at once: layout, projections, masks, codec, batched training."""
