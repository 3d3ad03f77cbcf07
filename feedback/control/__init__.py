"""Policy events: the live version, operators' actions, API keys, history."""
