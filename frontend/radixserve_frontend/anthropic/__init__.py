"""Anthropic's HTTP dialect: messages in, a message out, in one piece or as events."""
