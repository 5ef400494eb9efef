"""The daemon of one host: it finds the hardware, holds the models and admits the work."""
