"""Does PPO from human ratings say what people would rate higher, and does a second judge agree."""
