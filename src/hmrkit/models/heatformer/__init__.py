"""HeatFormer (being written)."""
