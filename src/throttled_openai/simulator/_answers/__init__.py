"""What is sent back: bodies of successful answers, their streams, stored objects, and the reply that carries them."""
