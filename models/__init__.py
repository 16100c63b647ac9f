"""The video transformer, the masked autoencoder, alignment heads and probes."""
