"""Nonlinear, data-dependent symmetries: any activation, any invertible g, exact on the samples one chooses."""
