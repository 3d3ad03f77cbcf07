"""PPO: rollouts, targets, losses and optimizer steps."""
