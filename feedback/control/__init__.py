"""Policy events: what is live, operators' actions, API keys, history."""
