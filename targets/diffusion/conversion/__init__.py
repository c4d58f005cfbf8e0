"""Published diffusion networks made teachers of the suite: safetensors and a card, from files that others saved."""
