"""What language models behind HTTP say of answers: how they are asked, read, remembered and paid for once."""
