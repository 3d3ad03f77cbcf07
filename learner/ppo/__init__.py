"""PPO: rollouts, advantages, losses, optimizer steps."""
