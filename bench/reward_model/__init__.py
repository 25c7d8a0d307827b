"""A reward model on what people said of sentences, beside plain fine-tuning."""
