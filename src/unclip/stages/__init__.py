"""What is trained: a network, its diffusion process and the dropping of conditions."""
