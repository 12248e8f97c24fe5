"""The command ``ats``: train, evaluate, predict and explain on a user's own images."""
