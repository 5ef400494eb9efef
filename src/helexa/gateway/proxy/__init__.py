"""Passing one request on: its body, its neuron, a second attempt, and what is told of it."""
