"""Convergence of averaging among peers that miss rounds, simulated with the topologies that runs use."""
