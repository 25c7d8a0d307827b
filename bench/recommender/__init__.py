"""Example 04 on real chats: what RL changes in a recommender."""
