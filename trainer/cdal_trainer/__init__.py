"""Training of cDAL: data, discriminator, attention map, loop and evaluation."""
