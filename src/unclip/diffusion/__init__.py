"""Diffusion mathematics: no networks. See schedules, prediction, losses, guidance and samplers."""
