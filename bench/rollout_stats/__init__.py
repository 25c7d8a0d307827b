"""How often the verdict on a rollout is wrong, and how many subjects it takes."""
