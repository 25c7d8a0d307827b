"""What is trained: encoders with adapters and a head, their tokenizer, and the files they become."""
